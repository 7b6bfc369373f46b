"""Helpers of all rules, and the configuration, checked before anything runs."""

import base64
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

from common.config import Runtime, is_sampled, load, stage_settings
from common.errors import UserError
from common.files import read_json, write_json
from common.source import source_digest
from descriptors.table import files_digest, find_files, open_table


def checked(action, *arguments):
    """The result of ``action``; what the user can mend ends the run in one line (a WorkflowError would print five)."""
    try:
        return action(*arguments)
    except UserError as error:
        raise SystemExit(f"Error: {error}") from None


config.update(checked(load, dict(config)))
RESULTS = config["results"]
# how the machine is used changes no result: a resource, because a change of a parameter would rerun the stage
MACHINE = " ".join(f"--{key} {config['descriptors'][key]}" for key in Runtime.model_fields)


def settings(stage):
    """The settings that one stage depends on, as one value: a change reruns the stage."""
    return json.dumps(stage_settings(config, stage), sort_keys=True)


def code(stage):
    """Digest of the source that a stage runs: an edit reruns it, a touch or a fresh checkout does not."""
    return source_digest(SCRIPTS / f"{stage}.py", SCRIPTS)


def check_paths(paths):
    """Refuse what Snakemake would take for wildcards, and a results folder that cannot be written."""
    for path in paths:
        if set("{}") & set(path):
            raise UserError(f"{path}: braces in a path mean wildcards to Snakemake; rename it")
    folder = Path(RESULTS).absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"config: results = {RESULTS!r} cannot be made, since {folder} is no folder or not writable")


def check_record(stage, made):
    """Refuse results of other settings that Snakemake has no record of: it would take them for these."""
    name = base64.urlsafe_b64encode(made.encode()).decode()
    elsewhere = any(Path(".snakemake").glob("*db*")) or len(name) >= 254  # records kept in another way than one a file
    if not Path(made).exists() or elsewhere or Path(".snakemake/metadata", name).exists():
        return
    then, now = read_json(made)["parameters"], stage_settings(config, stage)
    for key, value in now.items():
        if then.get(key) != value:
            raise UserError(
                f"{made}: was made with {key} = {then.get(key)!r}, not {value!r}, and Snakemake has no record of it in "
                "this folder; choose another results folder, or delete this file"
            )


onstart:
    checked(write_json, f"{RESULTS}/effective_config.json", config)
