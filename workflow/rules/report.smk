"""One page of what the run did to the data."""

# flag of scripts/report.py -> files; small or ancient, since what they follow from is watched
REPORTED = {}
if config["descriptors"]:
    REPORTED |= {
        "pass1": [rules.pass1.output.details],
        "pass2": [rules.pass2.output.details],
        "pass3": [rules.pass3.output.details],
        "pass4": [rules.pass4.output.details],
        "columns1": [rules.pass1.output.columns],
        "columns2": [rules.pass2.output.columns],
        "columns3": [rules.pass3.output.columns],
        "columns4": [rules.pass4.output.columns],
        "stats": [rules.pass1.output.stats],
        "codes": ancient([rules.pass1.output.codes]),
        "fine": ancient([rules.pass1.output.fine]),
        "ecdf": ancient([rules.pass1.output.ecdf]),
        "matrix": ancient([rules.pass2.output.matrix]),
        "repaired": ancient([rules.pass2.output.repaired]),
        "clusters": [rules.pass4.output.clusters],
        "similarity": ancient([rules.pass4.output.similarity]),
    }
    if TARGET is not None:
        REPORTED |= {"utility": [rules.utility.output.details]}
if config["taxoclass"]:
    REPORTED |= {
        "corpus": ancient([rules.check_corpus.output.corpus]),
        "taxonomy": [rules.check_corpus.output.taxonomy],
        "checked": [rules.check_corpus.output.details],
        "cores": ancient([rules.core_classes.output.cores]),
        "mined": [rules.core_classes.output.details],
        "trained": [rules.train_classifier.output.details],
        "iterations": [model_of(each, "details") for each in range(1, ITERATIONS + 1)],
        "labels": ancient([rules.predict.output.labels]),
        "predicted": [rules.predict.output.details],
    }
    if SETTINGS["gold_labels"] is not None:
        REPORTED |= {"gold": [input_file(SETTINGS["gold_labels"])], "metrics": [rules.evaluate.output.metrics]}


rule report:
    """Show what the run did to the data in one page, with pictures, tables and search."""
    input:
        **REPORTED,
        template=[input_file(f"{SCRIPTS}/reporting/page.html.j2")],
    output:
        page=report(
            f"{RESULTS}/report.html",
            category="report",
            caption="../report/report.rst",
        ),
    log:
        "logs/report.log",
    benchmark:
        "benchmarks/report.tsv"
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=8_000,
        runtime=60,
    params:
        code=code("report"),
        script=SCRIPTS / "report.py",
        files=flags(**{name: name for name in REPORTED}),
        rule_graph=RULE_GRAPH,
        provenances=[
            f"{RESULTS}/{wing}/provenance" for wing in ("molecules", "descriptors", "taxoclass") if config[wing]
        ],
    shell:
        "python {params.script:q} --code {params.code} --template {input.template:q} {params.files}"
        " --provenances {params.provenances:q} --rule-graph {params.rule_graph:q} --out-report {output.page:q} > {log:q} 2>&1"
