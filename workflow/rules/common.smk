"""Helpers of all rules, and the configuration, checked before anything runs."""

import base64
import json
import os
import shlex
import sys
from collections import Counter
from pathlib import Path

# not workflow.basedir, which is the other one where this workflow is a module
ROOT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parent.parent
SCRIPTS = ROOT / "scripts"
if not SCRIPTS.is_dir():
    raise SystemExit(
        "Error: winnow needs its scripts beside it; clone it, and give the module the path of that Snakefile"
    )
sys.path.insert(0, str(SCRIPTS))
# jobs use the interpreter that runs Snakemake, whether or not its environment is activated
os.environ |= {"PATH": os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()])}

from common.config import RUNTIMES, load, stage_settings
from common.descriptors_settings import Descriptors, is_sampled
from common.errors import UserError
from common.files import check_results, contents_digest, read_json, write_json
from common.found import find_files
from common.molecules_settings import table_glob
from common.source import source_digest
from common.storage import fetched, open_storage
from common.taxoclass_settings import Files
from descriptors.table import files_digest, open_table
from descriptors.targets import check as check_target
from taxoclass.inputs import read_texts
from taxoclass.models import check as check_model


def checked(action, *arguments):
    """The result of ``action``; what the user can mend ends the run in one line (a WorkflowError would print five)."""
    try:
        return action(*arguments)
    except UserError as error:
        raise SystemExit(f"Error: {error}") from None


config.update(checked(load, dict(config)))
RESULTS = config["results"]
RULE_GRAPH = f"{RESULTS}/rulegraph.json"


DEFAULT_STORAGE = workflow.storage_registry.default_storage_provider
PREFIX = workflow.storage_settings.default_storage_prefix or ""
STORAGE = checked(
    open_storage, workflow.storage_settings.default_storage_provider, PREFIX, getattr(DEFAULT_STORAGE, "settings", None)
)


def input_file(path):
    """An input of the config: a relative path is one of the default storage, if there is one, an absolute one is not."""
    return local(path) if os.path.isabs(path) else os.path.normpath(path)  # Snakemake warns of ./ and //


def storage_of(path):
    """Where such a path can be looked at before Snakemake has fetched it; None = here."""
    return None if os.path.isabs(path) else STORAGE


def copies(wildcards, input):
    """The flag for the folder of Snakemake's copies of the default storage; none without one. Of input: not tracked."""
    if DEFAULT_STORAGE is None:
        return ""
    root = DEFAULT_STORAGE.object(os.path.join(PREFIX, "any")).local_path().parent
    return f"--root {shlex.quote(str(root))}"


def machine(section):
    """Flags of how the machine is used, which changes no result: a resource, since a changed parameter is a rerun."""
    given = {key: config[section][key] for key in RUNTIMES[section].model_fields}
    values = {key: value if isinstance(value, list) else [str(value)] for key, value in given.items()}
    return " ".join(" ".join([f"--{key}", *value]) for key, value in values.items())


def from_molecules():
    """Whether the descriptors are those that this run makes from molecules."""
    molecules = config["molecules"]
    made = table_glob(RESULTS, molecules["molecule_shards"]) if molecules else None
    return made == config["descriptors"]["parquet_glob"]


def settings(stage):
    """The settings that one stage depends on, as one value: a change reruns the stage."""
    text = json.dumps(stage_settings(config, stage), sort_keys=True)
    return lambda wildcards: text  # a text would have its braces taken for wildcards


def code(stage):
    """Digest of the source that a stage runs: an edit reruns it, a touch or a fresh checkout does not."""
    return source_digest(SCRIPTS / f"{stage}.py", SCRIPTS)


def model_of(iteration, name):
    """A file that was written with the model of an iteration; 0 is the classifier of stage 3."""
    if iteration == 0:
        return getattr(rules.train_classifier.output, name)
    return getattr(rules.self_train.output, name).apply_wildcards({"iteration": str(iteration)})


def before(name):
    """The same file of the iteration before, as an input function."""
    return lambda wildcards: model_of(int(wildcards.iteration) - 1, name)


def pieces(shards, rule, name):
    """The files of all shards, in order; none where the pass is not cut up."""
    files = getattr(getattr(rules, rule).output, name)
    return [files.apply_wildcards({"shard": str(shard)}) for shard in range(1, shards + 1)] if shards > 1 else []


def flags(**names):
    """Command line flags with the files of an input each; none for an input without files."""
    return lambda wildcards, input: " ".join(
        f"--{flag} {' '.join(map(shlex.quote, input[name]))}" for flag, name in names.items() if input[name]
    )


def check_paths(paths):
    """Refuse what Snakemake would take for wildcards, and a results folder that cannot be written."""
    for path in paths:
        if set("{}") & set(path):
            raise UserError(f"{path}: braces in a path mean wildcards to Snakemake; rename it")
    if STORAGE is not None and (os.path.isabs(RESULTS) or RESULTS.startswith("..")):
        raise UserError(f"config: results = {RESULTS!r} is no path below the default storage's prefix; make it one")
    folder = Path(RESULTS).absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"config: results = {RESULTS!r} cannot be made, since {folder} is no folder or not writable")


def check_no_products(paths):
    """Refuse tables in the folders of products: each run could change the input of the next."""
    products = [Path(RESULTS, wing).absolute() for wing in ("descriptors", "taxoclass")]
    for path in paths:
        if any(Path(path).absolute().is_relative_to(folder) for folder in products):
            raise UserError(
                f"config: descriptors.parquet_glob matches {path}, in a folder of this workflow's own products; narrow"
                " it, or choose another results folder"
            )


def check_files(paths, section="taxoclass"):
    """Refuse paths of the config, by key, that name no readable file."""
    for key, path in paths.items():
        if path is None:
            continue
        given = f"config: {section}.{key} = {path!r}"
        if storage_of(path) is not None:
            if not STORAGE.isfile(path):
                raise UserError(f"{given} is no file in {PREFIX or 'this folder'}; put it there, or correct it")
        elif not os.access(path, os.R_OK):
            raise UserError(f"{given} is no readable file; correct the path")
        elif os.path.isdir(path):
            raise UserError(f"{given} is a folder; name the file in it")


def check_is_here(key, path):
    """Refuse a relative path of what is read before any job could fetch it from the default storage."""
    if storage_of(path) is not None:
        raise UserError(f"config: {key} = {path!r} is not read from a storage; give an absolute path")


def check_models(names, local_files_only):
    """Refuse models that are not there before the stages that come first were run for nothing."""
    for key, name in names.items():
        try:
            check_model(name, local_files_only)
        except UserError as error:
            raise UserError(f"config: taxoclass.{key}: {error}") from None


def check_texts(made, given, source):
    """Read changed texts before the job that would: a job that fails loses its earlier outputs, and all that follow."""
    now = stage_settings(config, "check_corpus")
    with fetched([made], STORAGE) as [path]:
        if not Path(path).exists():
            return
        then = read_json(path)
    if (then.get("source"), then.get("parameters")) == (source, now):
        return
    with fetched(list(given.values()), STORAGE) as paths:
        there = dict(zip(given, paths))
        read_texts(*map(there.get, ("classes", "hierarchy", "keywords", "train", "test")), **now)


def check_record(stage, made):
    """Refuse results of other settings that Snakemake has no record of: it would take them for these."""
    known_as = made.storage_object.query if made.is_storage else made
    name = base64.urlsafe_b64encode(known_as.encode()).decode()
    elsewhere = any(Path(".snakemake").glob("*db*")) or len(name) >= 254  # records kept in another way than one a file
    if elsewhere or Path(".snakemake/metadata", name).exists():
        return
    with fetched([os.path.relpath(known_as, PREFIX or ".")] if made.is_storage else [made], STORAGE) as [path]:
        if not Path(path).exists():
            return
        then, now = read_json(path)["parameters"], stage_settings(config, stage)
    for key, value in now.items():
        if then.get(key) != value:
            raise UserError(
                f"{known_as}: was made with {key} = {then.get(key)!r}, not {value!r}, and Snakemake has no record of it in "
                "this folder; choose another results folder, or delete this file"
            )


def rule_graph():
    """How many jobs of each rule that makes files the whole run has, and which rule reads files of which other one."""
    graph = workflow.dag.dependencies
    jobs = [job for job in graph if job.output]
    return {
        "jobs": Counter(job.rule.name for job in jobs),
        "edges": sorted({(made.rule.name, job.rule.name) for job in jobs for made in graph[job]}),
    }


onstart:
    checked(write_json, f"{RESULTS}/effective_config.json", config)
    checked(write_json, RULE_GRAPH, rule_graph())
