"""TaxoClass: check_corpus to evaluate."""

TAXOCLASS = f"{RESULTS}/taxoclass"
SETTINGS = config["taxoclass"]
ITERATIONS = SETTINGS["self_train_iterations"]
CORPUS_FILES = {
    flag: SETTINGS[key]
    for flag, key in {
        "classes": "classes_file",
        "hierarchy": "hierarchy_file",
        "keywords": "keywords_file",
        "train": "train_corpus",
        "test": "test_corpus",
    }.items()
    if SETTINGS[key] is not None
}
TAXOCLASS_MACHINE = machine("taxoclass")
TEXT_SHARDS = SETTINGS["similarity_shards"]
# scores and vectors by content of the text: a new class or document costs only its own
CACHE = f"{TAXOCLASS}/cache"

if workflow.is_main_process:
    checked(check_paths, [RESULTS, *CORPUS_FILES.values()])
    checked(check_files, {key: SETTINGS[key] for key in Files.model_fields})
SOURCE = checked(contents_digest, list(CORPUS_FILES.values()), STORAGE)
if workflow.is_main_process:
    checked(check_texts, f"{TAXOCLASS}/check_corpus.json", CORPUS_FILES, SOURCE)
    models = ["similarity_model", "doc_encoder_model"] + ["prefilter_model"] * (SETTINGS["candidates"] == "paths")
    checked(check_models, {key: SETTINGS[key] for key in models}, SETTINGS["local_files_only"])


rule check_corpus:
    """Read the taxonomy and the documents, and refuse what later stages would stumble over."""
    input:
        # by content, not by time: their digest is a parameter
        **{flag: ancient([input_file(path)]) for flag, path in CORPUS_FILES.items()},
    output:
        taxonomy=f"{TAXOCLASS}/taxonomy.json",
        corpus=f"{TAXOCLASS}/corpus.parquet",
        details=f"{TAXOCLASS}/check_corpus.json",
    log:
        "logs/check_corpus.log",
    benchmark:
        "benchmarks/check_corpus.tsv"
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=8_000,
        runtime=60,
        machine=TAXOCLASS_MACHINE,
    params:
        settings=settings("check_corpus"),
        source=SOURCE,
        code=code("check_corpus"),
        script=SCRIPTS / "check_corpus.py",
        files=flags(**{flag: flag for flag in CORPUS_FILES}),
        provenance=f"{TAXOCLASS}/provenance/check_corpus.json",
    shell:
        "python {params.script:q} --settings {params.settings:q} {resources.machine} --code {params.code} {params.files}"
        " --source {params.source} --out-taxonomy {output.taxonomy:q} --out-corpus {output.corpus:q} --out-details {output.details:q}"
        " --provenance {params.provenance:q} > {log:q} 2>&1"


rule similarity_shard:
    """A block of the documents compared with the names of the classes, where it is done in shards."""
    input:
        details=rules.check_corpus.output.details,
        taxonomy=rules.check_corpus.output.taxonomy,
        corpus=ancient(rules.check_corpus.output.corpus),
    output:
        piece=temp(f"{TAXOCLASS}/shards/similarity_{{shard}}_of_{TEXT_SHARDS}.npz"),
    log:
        "logs/similarity_{shard}.log",
    benchmark:
        "benchmarks/similarity_{shard}.tsv"
    conda:
        "../../envs/gpu.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_gb=40,
        mem_mb=40_000,
        runtime=1440,
        machine=TAXOCLASS_MACHINE,
    params:
        settings=settings("similarity"),
        code=code("similarity_shard"),
        script=SCRIPTS / "similarity_shard.py",
        cache=CACHE,
        provenance=f"{TAXOCLASS}/provenance/similarity_{{shard}}.json",
    shell:
        "python {params.script:q} --settings {params.settings:q} {resources.machine} --code {params.code} --threads {threads}"
        " --gpu {resources.gpu} --gpu-memory {resources.mem_gb} --shard {wildcards.shard} --taxonomy {input.taxonomy:q}"
        " --corpus {input.corpus:q} --details {input.details:q} --cache {params.cache:q} --out-piece {output.piece:q}"
        " --provenance {params.provenance:q} > {log:q} 2>&1"


rule similarity:
    """Compare every document with the names of the classes."""
    input:
        pieces=pieces(TEXT_SHARDS, "similarity_shard", "piece"),
        details=rules.check_corpus.output.details,
        taxonomy=rules.check_corpus.output.taxonomy,
        # large: watched through the small file that is written with it; so are all that follow
        corpus=ancient(rules.check_corpus.output.corpus),
    output:
        similarity=f"{TAXOCLASS}/similarity_matrix_all.npz",
        details=f"{TAXOCLASS}/similarity.json",
    log:
        "logs/similarity.log",
    benchmark:
        "benchmarks/similarity.tsv"
    localrule: TEXT_SHARDS > 1
    conda:
        "../../envs/gpu.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_gb=40,
        mem_mb=40_000,
        runtime=1440,
        machine=TAXOCLASS_MACHINE,
    params:
        settings=settings("similarity"),
        code=code("similarity"),
        script=SCRIPTS / "similarity.py",
        pieces=flags(pieces="pieces"),
        cache=CACHE,
        provenance=f"{TAXOCLASS}/provenance/similarity.json",
    shell:
        "python {params.script:q} --settings {params.settings:q} {resources.machine} --code {params.code} --threads {threads}"
        " --gpu {resources.gpu} --gpu-memory {resources.mem_gb} --taxonomy {input.taxonomy:q} --corpus {input.corpus:q} --details {input.details:q}"
        " {params.pieces} --cache {params.cache:q} --out-similarity {output.similarity:q} --out-details {output.details:q}"
        " --provenance {params.provenance:q} > {log:q} 2>&1"


rule core_classes:
    """Mine the few classes that each document is most surely about."""
    input:
        details=rules.similarity.output.details,
        taxonomy=rules.check_corpus.output.taxonomy,
        corpus=ancient(rules.check_corpus.output.corpus),
        similarity=ancient(rules.similarity.output.similarity),
        records=rules.check_corpus.output.details,
    output:
        cores=f"{TAXOCLASS}/core_classes.npz",
        details=f"{TAXOCLASS}/core_classes.json",
    log:
        "logs/core_classes.log",
    benchmark:
        "benchmarks/core_classes.tsv"
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=16_000,
        runtime=60,
        machine=TAXOCLASS_MACHINE,
    params:
        settings=settings("core_classes"),
        code=code("core_classes"),
        script=SCRIPTS / "core_classes.py",
        provenance=f"{TAXOCLASS}/provenance/core_classes.json",
    shell:
        "python {params.script:q} --settings {params.settings:q} {resources.machine} --code {params.code}"
        " --taxonomy {input.taxonomy:q} --corpus {input.corpus:q} --similarity {input.similarity:q}"
        " --details {input.details:q} --out-cores {output.cores:q} --out-details {output.details:q}"
        " --records {input.records:q} --provenance {params.provenance:q} > {log:q} 2>&1"


rule train_classifier:
    """Train document and class encoder on the core classes."""
    input:
        details=rules.core_classes.output.details,
        taxonomy=rules.check_corpus.output.taxonomy,
        corpus=ancient(rules.check_corpus.output.corpus),
        cores=ancient(rules.core_classes.output.cores),
        records=rules.check_corpus.output.details,
    output:
        model=f"{TAXOCLASS}/best_model.pt",
        labels=f"{TAXOCLASS}/best_model_labels.npz",
        details=f"{TAXOCLASS}/train_classifier.json",
    log:
        "logs/train_classifier.log",
    benchmark:
        "benchmarks/train_classifier.tsv"
    conda:
        "../../envs/gpu.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_gb=40,
        mem_mb=40_000,
        runtime=1440,
        machine=TAXOCLASS_MACHINE,
    params:
        settings=settings("train_classifier"),
        code=code("train_classifier"),
        script=SCRIPTS / "train_classifier.py",
        cache=CACHE,
        metrics=f"{TAXOCLASS}/metrics/train_classifier/steps.jsonl",
        provenance=f"{TAXOCLASS}/provenance/train_classifier.json",
    shell:
        "python {params.script:q} --settings {params.settings:q} {resources.machine} --code {params.code} --threads {threads}"
        " --gpu {resources.gpu} --gpu-memory {resources.mem_gb} --taxonomy {input.taxonomy:q} --corpus {input.corpus:q} --cores {input.cores:q}"
        " --details {input.details:q} --cache {params.cache:q} --metrics {params.metrics:q}"
        " --out-model {output.model:q} --out-labels {output.labels:q} --out-details {output.details:q}"
        " --records {input.records:q} --provenance {params.provenance:q} > {log:q} 2>&1"


rule self_train:
    """One iteration of self-training: the model of the one before learns its own sharpened predictions."""
    input:
        details=before("details"),
        taxonomy=rules.check_corpus.output.taxonomy,
        corpus=ancient(rules.check_corpus.output.corpus),
        cores=ancient(rules.core_classes.output.cores),
        model=ancient(before("model")),
        labels=ancient(before("labels")),
        records=[rules.check_corpus.output.details, rules.core_classes.output.details],
    output:
        model=f"{TAXOCLASS}/self_train/iteration_{{iteration}}/model.pt",
        labels=f"{TAXOCLASS}/self_train/iteration_{{iteration}}/labels.npz",
        details=f"{TAXOCLASS}/self_train/iteration_{{iteration}}/metrics.json",
    log:
        "logs/self_train_{iteration}.log",
    benchmark:
        "benchmarks/self_train_{iteration}.tsv"
    conda:
        "../../envs/gpu.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_gb=40,
        mem_mb=40_000,
        runtime=1440,
        machine=TAXOCLASS_MACHINE,
    params:
        settings=settings("self_train"),
        code=code("self_train"),
        script=SCRIPTS / "self_train.py",
        cache=CACHE,
        metrics=lambda wildcards: f"{TAXOCLASS}/metrics/self_train_{wildcards.iteration}/steps.jsonl",
        provenance=lambda wildcards: f"{TAXOCLASS}/provenance/self_train_{wildcards.iteration}.json",
    shell:
        "python {params.script:q} --settings {params.settings:q} {resources.machine} --code {params.code} --threads {threads}"
        " --gpu {resources.gpu} --gpu-memory {resources.mem_gb} --iteration {wildcards.iteration} --taxonomy {input.taxonomy:q} --corpus {input.corpus:q}"
        " --cores {input.cores:q} --model {input.model:q} --labels {input.labels:q} --details {input.details:q}"
        " --cache {params.cache:q} --metrics {params.metrics:q}"
        " --out-model {output.model:q} --out-labels {output.labels:q} --out-details {output.details:q}"
        " --records {input.records:q} --provenance {params.provenance:q} > {log:q} 2>&1"


rule predict:
    """Label the documents of test_corpus, or of train_corpus where there is no other."""
    input:
        details=model_of(ITERATIONS, "details"),
        taxonomy=rules.check_corpus.output.taxonomy,
        corpus=ancient(rules.check_corpus.output.corpus),
        model=ancient(model_of(ITERATIONS, "model")),
        records=rules.check_corpus.output.details,
    output:
        predictions=f"{TAXOCLASS}/predictions.npy",
        ids=f"{TAXOCLASS}/prediction_ids.txt",
        labels=f"{TAXOCLASS}/labels.jsonl",
        submission=f"{TAXOCLASS}/submission.csv",
        model=f"{TAXOCLASS}/model.pt",
        details=f"{TAXOCLASS}/predict.json",
    log:
        "logs/predict.log",
    benchmark:
        "benchmarks/predict.tsv"
    conda:
        "../../envs/gpu.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_gb=40,
        mem_mb=40_000,
        runtime=240,
        machine=TAXOCLASS_MACHINE,
    params:
        settings=settings("predict"),
        code=code("predict"),
        script=SCRIPTS / "predict.py",
        split="test" if "test" in CORPUS_FILES else "train",
        cache=CACHE,
        provenance=f"{TAXOCLASS}/provenance/predict.json",
    shell:
        "python {params.script:q} --settings {params.settings:q} {resources.machine} --code {params.code} --threads {threads}"
        " --gpu {resources.gpu} --gpu-memory {resources.mem_gb} --model {input.model:q} --taxonomy {input.taxonomy:q} --input {input.corpus:q}"
        " --split {params.split} --details {input.details:q} --cache {params.cache:q}"
        " --out-predictions {output.predictions:q} --out-ids {output.ids:q} --out-labels {output.labels:q}"
        " --out-submission {output.submission:q} --out-model {output.model:q} --out-details {output.details:q}"
        " --records {input.records:q} --provenance {params.provenance:q} > {log:q} 2>&1"


rule labels_parquet:
    """The labels again, as a Parquet file."""
    input:
        labels=rules.predict.output.labels,
        records=rules.predict.output.details,
    output:
        table=f"{TAXOCLASS}/labels.parquet",
    log:
        "logs/labels_parquet.log",
    benchmark:
        "benchmarks/labels_parquet.tsv"
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=4_000,
        runtime=60,
    params:
        code=code("labels_parquet"),
        script=SCRIPTS / "labels_parquet.py",
        provenance=f"{TAXOCLASS}/provenance/labels_parquet.json",
    shell:
        "python {params.script:q} --code {params.code} --labels {input.labels:q} --records {input.records:q}"
        " --out-table {output.table:q} --provenance {params.provenance:q} > {log:q} 2>&1"


if SETTINGS["gold_labels"] is not None:

    rule evaluate:
        """Compare the labels with gold labels, which no other rule reads."""
        input:
            records=[
                rules.check_corpus.output.details,
                rules.core_classes.output.details,
                *(model_of(iteration, "details") for iteration in range(ITERATIONS + 1)),
                rules.predict.output.details,
            ],
            gold=input_file(SETTINGS["gold_labels"]),
            taxonomy=rules.check_corpus.output.taxonomy,
            corpus=ancient(rules.check_corpus.output.corpus),
            cores=ancient(rules.core_classes.output.cores),
            models=ancient([model_of(iteration, "labels") for iteration in range(ITERATIONS + 1)]),
            predictions=ancient(rules.predict.output.predictions),
            ids=rules.predict.output.ids,
            labels=ancient(rules.predict.output.labels),
        output:
            metrics=f"{TAXOCLASS}/metrics.json",
        log:
            "logs/evaluate.log",
        benchmark:
            "benchmarks/evaluate.tsv"
        localrule: True
        conda:
            "../../envs/cpu.yaml"
        threads: 1
        resources:
            mem_mb=8_000,
            runtime=30,
            machine=TAXOCLASS_MACHINE,
        params:
            settings=settings("evaluate"),
            code=code("evaluate"),
            script=SCRIPTS / "evaluate.py",
            provenance=f"{TAXOCLASS}/provenance/evaluate.json",
        shell:
            "python {params.script:q} --settings {params.settings:q} {resources.machine} --code {params.code}"
            " --gold {input.gold:q} --taxonomy {input.taxonomy:q} --corpus {input.corpus:q} --cores {input.cores:q}"
            " --models {input.models:q} --predictions {input.predictions:q} --ids {input.ids:q}"
            " --labels {input.labels:q} --out-metrics {output.metrics:q}"
            " --records {input.records:q} --provenance {params.provenance:q} > {log:q} 2>&1"


rule taxoclass:
    """Hierarchical labels of the documents, with the model that gives them."""
    input:
        # all products but the cache: one that is missing is made again, with all that follows
        rules.check_corpus.output,
        rules.similarity.output,
        rules.core_classes.output,
        rules.train_classifier.output,
        [model_of(i, name) for i in range(1, ITERATIONS + 1) for name in ("model", "labels", "details")],
        rules.predict.output,
        rules.evaluate.output if SETTINGS["gold_labels"] is not None else [],


if workflow.is_main_process:
    CHAIN = [
        ("check_corpus", rules.check_corpus.output.details),
        ("similarity", rules.similarity.output.details),
        ("core_classes", rules.core_classes.output.details),
        ("train_classifier", rules.train_classifier.output.details),
        *(("self_train", model_of(iteration, "details")) for iteration in range(1, ITERATIONS + 1)),
    ]
    for stage, made in [*CHAIN, ("predict", rules.predict.output.details)]:
        checked(check_record, stage, made)
    if STORAGE is None:  # what is there was put there whole, and is looked at by who fetches it
        checked(check_results, rules.taxoclass.input, [made for _, made in CHAIN])
