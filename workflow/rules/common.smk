"""Helpers of all rules, and the configuration, checked before anything runs."""

import json
import os
import shlex
import sys
from pathlib import Path

ROOT = Path(workflow.basedir)
SCRIPTS = ROOT / "scripts"
sys.path.insert(0, str(SCRIPTS))
# jobs use the interpreter that runs Snakemake, whether or not its environment is activated
os.environ |= {"PATH": os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()])}

from common.config import Runtime, load, stage_settings
from common.errors import UserError
from common.files import write_json
from common.source import source_digest
from descriptors.table import find_files, files_digest


def checked(action, *arguments):
    """The result of ``action``; what the user can mend ends the run in one line (a WorkflowError would print five)."""
    try:
        return action(*arguments)
    except UserError as error:
        raise SystemExit(f"Error: {error}") from None


config.update(checked(load, dict(config)))
RESULTS = config["results"]
# how the machine is used changes no result: a resource, because a change of a parameter would rerun the stage
MACHINE = (
    " ".join(f"--{key} {config['descriptors'][key]}" for key in Runtime.model_fields) if config["descriptors"] else ""
)


def settings(stage):
    """The settings that one stage depends on, as one value: a change reruns the stage."""
    return json.dumps(stage_settings(config, stage), sort_keys=True)


def code(stage):
    """Digest of the source that a stage runs: an edit reruns it, a touch or a fresh checkout does not."""
    return source_digest(SCRIPTS / f"{stage}.py", SCRIPTS)


onstart:
    write_json(f"{RESULTS}/effective_config.json", config)
