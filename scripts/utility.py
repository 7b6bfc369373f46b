"""Does the selection keep what matters: a property is predicted with all descriptors, the selected and random ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from common import files
from common.descriptors_settings import Runtime, Utility
from common.errors import UserError
from common.found import ROOT
from common.progress import progress
from common.stage import Stage, run_stage
from descriptors import products, targets, utility
from descriptors.table import Table

COPIES = 4  # of the values, while a model is fitted
HEADER = ("model", "descriptors", "number", "score", "mean", "low", "high")


def main() -> None:
    run_stage(
        "utility",
        Utility,
        inputs={
            "manifest": "JSON of pass 0",
            "columns": "text: the final descriptors, one a line",
            "pass2": "text: columns that passed pass 2",
            "pass3": "text: columns that passed pass 3",
        },
        values=ROOT,
        optional=("pass2", "pass3", *ROOT),
        outputs={"out-details": "JSON: scores by fold, means, intervals", "out-table": "tsv: means and intervals"},
        work=work,
    )


def work(stage: Stage) -> None:
    settings: Utility = stage.settings
    manifest, table = products.whole(stage.paths.manifest, stage.paths.root)
    given = {"selected": stage.paths.columns, "after pass 2": stage.paths.pass2, "after pass 3": stage.paths.pass3}
    place = {name: number for number, name in enumerate(table.descriptors)}
    sets = {"all": np.arange(len(place))} | {name: places_of(path, place) for name, path in given.items() if path}
    masks, target, n_there = property_of(stage, table, [each["key"] for each in manifest["files"]])
    task = utility.task_of(target) if settings.utility_task == "auto" else settings.utility_task
    target, classes = coded(target, task, settings)
    check_memory(stage, len(target), len(table.descriptors))
    values = targets.descriptors_of(table, masks, stage.runtime.batch_rows)

    named, size = list(sets), len(sets["selected"])
    drawn = utility.random_sets(len(place), size, settings.utility_random_sets, settings.random_seed)
    sets |= {f"random {number}": columns for number, columns in enumerate(drawn, start=1)}
    folds = utility.splits(target, task, settings.utility_folds, settings.utility_repeats, settings.random_seed)
    makers = utility.models(task, settings.random_seed)
    jobs = [(model, name, fold) for model in makers for name in sets for fold in folds]

    def score(job: tuple[str, str, utility.Split]) -> float:
        model, name, fold = job
        return utility.score(values[:, sets[name]], target, task, makers[model](), *fold)

    # a thread a fit, and one inside of it, so that no result depends on their number
    found = []
    with (
        progress(stage.name, len(jobs), "fit") as bar,
        ThreadPoolExecutor(stage.threads, initializer=threadpool_limits, initargs=(1,)) as pool,
    ):
        for each in pool.map(score, jobs):
            found.append(each)
            bar.update()
    scores = np.array(found).reshape(len(makers), len(sets), len(folds))
    results = {model: compared(named, each, settings) for model, each in zip(makers, scores, strict=True)}
    write(
        stage,
        manifest,
        results,
        sets,
        {
            "task": task,
            "score": utility.SCORES[task],
            "classes": classes,
            "rows": len(target),
            "rows_with_target": n_there,
        },
    )
    for model, result in results.items():
        means = ", ".join(f"{name} {result[name]['mean']:.3f}" for name in ("all", "selected", "random"))
        stage.log(f"{len(target):,} rows", f"{model}, {utility.SCORES[task]}", means)


def property_of(stage: Stage, table: Table, keys: list[str]) -> tuple[list[np.ndarray], np.ndarray, int]:
    """The rows to use and their property."""
    settings: Utility = stage.settings
    target, schema = settings.utility_target, table.schema
    if target is None:
        raise UserError("config: descriptors.utility_target is not set; name the column that is to be predicted")
    targets.check(table, target, settings.utility_key)
    column, values_of = target, lambda values: values.cast(schema.field(target).type)
    if settings.utility_file is not None:
        assert settings.utility_key is not None
        column = settings.utility_key
        values_of = targets.look_up(*targets.read_file(settings.utility_file, column, target))
    found = targets.choose(
        table, keys, column, values_of, settings.utility_rows, settings.random_seed, stage.runtime.batch_rows
    )
    if len(found[1]) < 2 * settings.utility_folds:
        raise UserError(
            f"config: descriptors.utility_target = {target!r} has a value in {len(found[1])} rows, too few for "
            f"utility_folds = {settings.utility_folds}; is utility_key the right column?"
        )
    return found


def coded(target: np.ndarray, task: str, settings: Utility) -> tuple[np.ndarray, list[str] | None]:
    """The target as the models take it: float64, or the number of its class, and the classes."""
    name = settings.utility_target
    if task == "regression":
        if target.dtype.kind not in "iufb":
            raise UserError(f"config: descriptors.utility_target = {name!r} is text; utility_task cannot be regression")
        return target.astype(float), None
    classes, codes, counts = np.unique(target, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise UserError(f"config: descriptors.utility_target = {name!r} has the same value in all rows; choose another")
    if counts.min() < settings.utility_folds:
        raise UserError(
            f"config: descriptors.utility_target = {name!r}: its class {str(classes[counts.argmin()])!r} has "
            f"{counts.min()} rows, fewer than utility_folds = {settings.utility_folds}; lower "
            "it, or set utility_task: regression"
        )
    return codes, [str(each) for each in classes]


def check_memory(stage: Stage, n_rows: int, n_columns: int) -> None:
    needed = 8 * COPIES * n_rows * n_columns * stage.threads
    if needed > stage.runtime.budget:
        raise UserError(
            f"utility: {n_rows:,} rows x {n_columns:,} columns on {stage.threads} threads need "
            f"descriptors.max_host_memory_gb >= {Runtime.gigabytes_for(needed)}; raise it, or lower utility_rows"
        )


def compared(named: list[str], scores: np.ndarray, settings: Utility) -> dict[str, Any]:
    """Of one model, (sets, folds), the random sets last: each by itself, and all that are named against two of them."""
    share = 1 / settings.utility_folds
    every, drawn = scores[0], scores[len(named) :]
    found = {name: utility.summary(each, share) | {"scores": each} for name, each in zip(named, scores, strict=False)}
    found["random"] = utility.summary(drawn.mean(axis=0), share) | {"scores": drawn}
    for name, each in zip(named[1:], scores[1:], strict=False):
        found[f"{name} minus all"] = utility.summary(each - every, share)
    found["selected minus random"] = utility.summary(scores[1] - drawn.mean(axis=0), share)
    return found


def places_of(path: str, place: dict[str, int]) -> np.ndarray:
    """(Q,) int64, ascending: where the columns of a list are among the descriptors."""
    names = files.read_lines(path)
    for name in names:
        if name not in place:
            raise UserError(f"{path}: {name} is no descriptor of the input; run the passes again")
    return np.array(sorted(place[name] for name in names))


def write(
    stage: Stage, manifest: dict[str, Any], results: dict[str, Any], sets: dict[str, np.ndarray], about: dict[str, Any]
) -> None:
    number = {name: len(columns) for name, columns in sets.items()} | {"random": len(sets["selected"])}
    rows = [HEADER]
    for model, result in results.items():
        for name, found in result.items():
            numbers = (f"{found[key]:.4f}" for key in ("mean", "low", "high"))
            rows.append((model, name, str(number.get(name, "")), about["score"], *numbers))
    files.write_lines(stage.paths.out_table, ["\t".join(row) for row in rows])
    stage.record(
        stage.paths.out_details,
        {
            "parameters": stage.parameters,
            "files_digest": manifest["files_digest"],
            "made_from": files.contents_digest([stage.paths.columns]),
            **about,
            "descriptors": {name: number[name] for name in number if name in next(iter(results.values()))},
            "models": results,
        },
    )


if __name__ == "__main__":
    main()
