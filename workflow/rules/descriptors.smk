"""Descriptor selection: pass 0 to pass 4."""

DESCRIPTORS = f"{RESULTS}/descriptors"
MACHINE = machine("descriptors")
SAMPLED = is_sampled(config["descriptors"])
SHARDS = config["descriptors"]["shards"]
PIECES = f"{DESCRIPTORS}/shards"
# otherwise pass 2 is one matrix product of all columns, or looks at all of them first
PAIRS_APART = config["descriptors"]["missing"] == "pairwise" and config["descriptors"]["prescreen"] == "none"
COLUMN_KEYS = ("n_metadata", "metadata_columns", "exclude_columns")
PATTERN = config["descriptors"]["parquet_glob"]
# tables that this run makes from molecules are not there yet, and are checked by pass 0
MADE = MOLECULE_TABLES if from_molecules() else []
FILES = MADE or checked(find_files, PATTERN, storage_of(PATTERN))
SOURCE_FILES = "" if MADE else f"--source {checked(files_digest, PATTERN, storage_of(PATTERN))}"
# by content, not by time: their digest is a parameter
TABLES = MADE or ancient([input_file(path) for path in FILES])
# what the passes read; a job that shares no files with this one has it fetched
SAMPLE = ancient([f"{DESCRIPTORS}/sampled_data.parquet"]) if SAMPLED else TABLES

if workflow.is_main_process:
    # here and not in a job, because a job that fails loses its earlier outputs
    checked(check_paths, [RESULTS, *FILES])
    checked(check_no_products, FILES)
    if not MADE:
        TABLE = checked(open_table, FILES, *(config["descriptors"][key] for key in COLUMN_KEYS), storage_of(PATTERN))


rule pass0:
    """Check the input files, and sample rows if asked for."""
    input:
        TABLES,
    output:
        **({"sample": f"{DESCRIPTORS}/sampled_data.parquet"} if SAMPLED else {}),
        manifest=f"{DESCRIPTORS}/pass0_sampling.json",
    log:
        "logs/pass0.log",
    benchmark:
        "benchmarks/pass0.tsv"
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=4_000,
        runtime=60,
        machine=MACHINE,
    params:
        settings=settings("pass0"),
        source=SOURCE_FILES,
        root=copies,
        code=code("pass0"),
        script=SCRIPTS / "pass0.py",
        sample=lambda wildcards, output: f"--out-sample {shlex.quote(output.sample)}" if SAMPLED else "",
        provenance=f"{DESCRIPTORS}/provenance/pass0.json",
    shell:
        "python {params.script:q} --settings {params.settings:q} {resources.machine} --code {params.code}"
        " {params.root} {params.source} --out-manifest {output.manifest:q} {params.sample} --provenance {params.provenance:q} > {log:q} 2>&1"


rule pass1_shard:
    """A block of the columns of pass 1, where it is done in shards."""
    input:
        SAMPLE,
        manifest=rules.pass0.output.manifest,
    output:
        piece=temp(f"{PIECES}/pass1_{{shard}}_of_{SHARDS}.npz"),
        codes=temp(f"{PIECES}/pass1_{{shard}}_of_{SHARDS}_codes.npy"),
        fine=temp(f"{PIECES}/pass1_{{shard}}_of_{SHARDS}_codes_fine.npy"),
    log:
        "logs/pass1_{shard}.log",
    benchmark:
        "benchmarks/pass1_{shard}.tsv"
    conda:
        "../../envs/gpu.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_gb=40,
        mem_mb=40_000,
        runtime=480,
        machine=MACHINE,
    params:
        settings=settings("pass1"),
        source=SOURCE_FILES,
        code=code("pass1_shard"),
        script=SCRIPTS / "pass1_shard.py",
        root=copies,
        provenance=f"{DESCRIPTORS}/provenance/pass1_{{shard}}.json",
    shell:
        "python {params.script:q} --settings {params.settings:q} {resources.machine} --code {params.code} --threads {threads}"
        " --gpu {resources.gpu} --gpu-memory {resources.mem_gb} --shard {wildcards.shard} --manifest {input.manifest:q}"
        " {params.root} {params.source}"
        " --out-piece {output.piece:q} --out-codes {output.codes:q} --out-fine {output.fine:q}"
        " --provenance {params.provenance:q} > {log:q} 2>&1"


rule pass1:
    """Drop columns that hardly vary or are mostly missing; rank the others."""
    input:
        SAMPLE,
        manifest=rules.pass0.output.manifest,
        pieces=pieces(SHARDS, "pass1_shard", "piece"),
        codes=pieces(SHARDS, "pass1_shard", "codes"),
        fine=pieces(SHARDS, "pass1_shard", "fine"),
    output:
        details=f"{DESCRIPTORS}/pass1_variance_filtering.json",
        columns=f"{DESCRIPTORS}/pass1_columns.txt",
        stats=f"{DESCRIPTORS}/pass1_stats.npz",
        codes=f"{DESCRIPTORS}/pass1_codes.npy",
        fine=f"{DESCRIPTORS}/pass1_codes_fine.npy",
        ecdf=f"{DESCRIPTORS}/pass1_ecdf.npy",
        rows=f"{DESCRIPTORS}/pass1_rows.npy",
    log:
        "logs/pass1.log",
    benchmark:
        "benchmarks/pass1.tsv"
    localrule: SHARDS > 1
    conda:
        "../../envs/gpu.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_gb=40,
        mem_mb=40_000,
        runtime=480,
        machine=MACHINE,
    params:
        settings=settings("pass1"),
        source=SOURCE_FILES,
        code=code("pass1"),
        script=SCRIPTS / "pass1.py",
        root=copies,
        pieces=flags(**{"pieces": "pieces", "piece-codes": "codes", "piece-fine": "fine"}),
        provenance=f"{DESCRIPTORS}/provenance/pass1.json",
    shell:
        "python {params.script:q} --settings {params.settings:q} {resources.machine} --code {params.code} --threads {threads}"
        " --gpu {resources.gpu} --gpu-memory {resources.mem_gb} --manifest {input.manifest:q} {params.pieces}"
        " {params.root} {params.source}"
        " --out-details {output.details:q} --out-columns {output.columns:q} --out-stats {output.stats:q}"
        " --out-codes {output.codes:q} --out-fine {output.fine:q} --out-ecdf {output.ecdf:q} --out-rows {output.rows:q}"
        " --provenance {params.provenance:q} > {log:q} 2>&1"


rule pass2_shard:
    """Some blocks of the column pairs of pass 2, where it is done in shards."""
    input:
        details=rules.pass1.output.details,
        columns=rules.pass1.output.columns,
        stats=rules.pass1.output.stats,
        # large: watched through the small files that pass1 writes with it
        codes=ancient(rules.pass1.output.codes),
        fine=ancient(rules.pass1.output.fine),
        ecdf=ancient(rules.pass1.output.ecdf),
    output:
        piece=temp(f"{PIECES}/pass2_{{shard}}_of_{SHARDS}.npz"),
    log:
        "logs/pass2_{shard}.log",
    benchmark:
        "benchmarks/pass2_{shard}.tsv"
    conda:
        "../../envs/gpu.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_gb=40,
        mem_mb=40_000,
        runtime=480,
        machine=MACHINE,
    params:
        settings=settings("pass2"),
        code=code("pass2_shard"),
        script=SCRIPTS / "pass2_shard.py",
        provenance=f"{DESCRIPTORS}/provenance/pass2_{{shard}}.json",
    shell:
        "python {params.script:q} --settings {params.settings:q} {resources.machine} --code {params.code} --threads {threads}"
        " --gpu {resources.gpu} --gpu-memory {resources.mem_gb} --shard {wildcards.shard}"
        " --details {input.details:q} --columns {input.columns:q} --stats {input.stats:q}"
        " --codes {input.codes:q} --fine {input.fine:q} --ecdf {input.ecdf:q}"
        " --out-piece {output.piece:q}"
        " --provenance {params.provenance:q} > {log:q} 2>&1"


rule pass2:
    """Of columns that rank the molecules alike (Spearman), keep one a cluster."""
    input:
        details=rules.pass1.output.details,
        columns=rules.pass1.output.columns,
        stats=rules.pass1.output.stats,
        # large: watched through the small files that pass1 writes with it
        codes=ancient(rules.pass1.output.codes),
        fine=ancient(rules.pass1.output.fine),
        ecdf=ancient(rules.pass1.output.ecdf),
        pieces=pieces(SHARDS, "pass2_shard", "piece") if PAIRS_APART else [],
    output:
        details=f"{DESCRIPTORS}/pass2_spearman.json",
        columns=f"{DESCRIPTORS}/pass2_columns.txt",
        matrix=f"{DESCRIPTORS}/pass2_spearman_matrix.npy",
        repaired=f"{DESCRIPTORS}/pass2_spearman_repaired.npy",
    log:
        "logs/pass2.log",
    benchmark:
        "benchmarks/pass2.tsv"
    localrule: SHARDS > 1 and PAIRS_APART
    conda:
        "../../envs/gpu.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_gb=40,
        mem_mb=40_000,
        runtime=480,
        machine=MACHINE,
    params:
        settings=settings("pass2"),
        code=code("pass2"),
        script=SCRIPTS / "pass2.py",
        pieces=flags(pieces="pieces"),
        provenance=f"{DESCRIPTORS}/provenance/pass2.json",
    shell:
        "python {params.script:q} --settings {params.settings:q} {resources.machine} --code {params.code} --threads {threads}"
        " --gpu {resources.gpu} --gpu-memory {resources.mem_gb} --details {input.details:q} --columns {input.columns:q} --stats {input.stats:q}"
        " --codes {input.codes:q} --fine {input.fine:q} --ecdf {input.ecdf:q} {params.pieces} --out-details {output.details:q} --out-columns {output.columns:q}"
        " --out-matrix {output.matrix:q} --out-repaired {output.repaired:q}"
        " --provenance {params.provenance:q} > {log:q} 2>&1"


rule pass3:
    """Drop columns that the others explain together (variance inflation factor)."""
    input:
        SAMPLE if config["descriptors"]["vif_on"] == "pearson" else [],
        details=rules.pass2.output.details,
        columns=rules.pass2.output.columns,
        matrix=ancient(rules.pass2.output.matrix),
        repaired=ancient(rules.pass2.output.repaired),
        entered=rules.pass1.output.columns,
        stats=rules.pass1.output.stats,
        manifest=rules.pass0.output.manifest,
        records=rules.pass1.output.details,
    output:
        details=f"{DESCRIPTORS}/pass3_vif.json",
        columns=f"{DESCRIPTORS}/pass3_columns.txt",
    log:
        "logs/pass3.log",
    benchmark:
        "benchmarks/pass3.tsv"
    conda:
        "../../envs/cpu.yaml"
    threads: 4
    resources:
        mem_mb=8_000,
        runtime=60,
        machine=MACHINE,
    params:
        settings=settings("pass3"),
        code=code("pass3"),
        script=SCRIPTS / "pass3.py",
        root=copies,
        provenance=f"{DESCRIPTORS}/provenance/pass3.json",
    shell:
        "python {params.script:q} --settings {params.settings:q} {resources.machine} --code {params.code} --threads {threads}"
        " --details {input.details:q} --columns {input.columns:q} --matrix {input.matrix:q}"
        " --repaired {input.repaired:q} --entered {input.entered:q} --stats {input.stats:q}"
        " --manifest {input.manifest:q} {params.root} --records {input.records:q}"
        " --out-details {output.details:q} --out-columns {output.columns:q}"
        " --provenance {params.provenance:q} > {log:q} 2>&1"


rule pass4_shard:
    """Some blocks of the column pairs of pass 4, where it is done in shards."""
    input:
        columns=rules.pass3.output.columns,
        entered=rules.pass1.output.columns,
        stats=rules.pass1.output.stats,
        codes=ancient(rules.pass1.output.codes),
        fine=ancient(rules.pass1.output.fine),
        ecdf=ancient(rules.pass1.output.ecdf),
        rows=ancient(rules.pass1.output.rows),
        pass1=rules.pass1.output.details,
        pass2=rules.pass2.output.details,
        pass3=rules.pass3.output.details,
    output:
        piece=temp(f"{PIECES}/pass4_{{shard}}_of_{SHARDS}.npz"),
    log:
        "logs/pass4_{shard}.log",
    benchmark:
        "benchmarks/pass4_{shard}.tsv"
    conda:
        "../../envs/gpu.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_gb=40,
        mem_mb=40_000,
        runtime=480,
        machine=MACHINE,
    params:
        settings=settings("pass4"),
        code=code("pass4_shard"),
        script=SCRIPTS / "pass4_shard.py",
        provenance=f"{DESCRIPTORS}/provenance/pass4_{{shard}}.json",
    shell:
        "python {params.script:q} --settings {params.settings:q} {resources.machine} --code {params.code} --threads {threads}"
        " --gpu {resources.gpu} --gpu-memory {resources.mem_gb} --shard {wildcards.shard}"
        " --columns {input.columns:q} --entered {input.entered:q} --stats {input.stats:q}"
        " --codes {input.codes:q} --fine {input.fine:q} --ecdf {input.ecdf:q} --rows {input.rows:q}"
        " --pass1 {input.pass1:q} --pass2 {input.pass2:q} --pass3 {input.pass3:q}"
        " --out-piece {output.piece:q}"
        " --provenance {params.provenance:q} > {log:q} 2>&1"


rule pass4:
    """Of columns that depend on one another in any way (HSIC and RDC), keep one a cluster."""
    input:
        columns=rules.pass3.output.columns,
        entered=rules.pass1.output.columns,
        stats=rules.pass1.output.stats,
        codes=ancient(rules.pass1.output.codes),
        fine=ancient(rules.pass1.output.fine),
        ecdf=ancient(rules.pass1.output.ecdf),
        rows=ancient(rules.pass1.output.rows),
        pass1=rules.pass1.output.details,
        pass2=rules.pass2.output.details,
        pass3=rules.pass3.output.details,
        pieces=pieces(SHARDS, "pass4_shard", "piece"),
    output:
        details=f"{DESCRIPTORS}/pass4_nonlinear.json",
        columns=f"{DESCRIPTORS}/final_descriptors.txt",
        clusters=f"{DESCRIPTORS}/final_cluster_info.json",
        similarity=f"{DESCRIPTORS}/pass4_similarity.npz",
        removed=report(
            f"{DESCRIPTORS}/removed_descriptors.tsv",
            category="descriptors",
            caption="../report/removed.rst",
        ),
    log:
        "logs/pass4.log",
    benchmark:
        "benchmarks/pass4.tsv"
    localrule: SHARDS > 1
    conda:
        "../../envs/gpu.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_gb=40,
        mem_mb=40_000,
        runtime=480,
        machine=MACHINE,
    params:
        settings=settings("pass4"),
        code=code("pass4"),
        script=SCRIPTS / "pass4.py",
        pieces=flags(pieces="pieces"),
        provenance=f"{DESCRIPTORS}/provenance/pass4.json",
    shell:
        "python {params.script:q} --settings {params.settings:q} {resources.machine} --code {params.code} --threads {threads}"
        " --gpu {resources.gpu} --gpu-memory {resources.mem_gb} --columns {input.columns:q} --entered {input.entered:q} --stats {input.stats:q}"
        " --codes {input.codes:q} --fine {input.fine:q} --ecdf {input.ecdf:q} {params.pieces} --rows {input.rows:q} --pass1 {input.pass1:q} --pass2 {input.pass2:q}"
        " --pass3 {input.pass3:q} --out-details {output.details:q} --out-columns {output.columns:q}"
        " --out-clusters {output.clusters:q} --out-similarity {output.similarity:q} --out-removed {output.removed:q}"
        " --provenance {params.provenance:q} > {log:q} 2>&1"


rule overview:
    """A picture of the selection: columns left by each pass, correlations by final cluster."""
    input:
        pass1=rules.pass1.output.details,
        pass2=rules.pass2.output.details,
        pass3=rules.pass3.output.details,
        pass4=rules.pass4.output.details,
        entered=rules.pass1.output.columns,
        matrix=ancient(rules.pass2.output.matrix),
        clusters=rules.pass4.output.clusters,
    output:
        picture=report(
            f"{DESCRIPTORS}/overview.png",
            category="descriptors",
            caption="../report/overview.rst",
        ),
    log:
        "logs/overview.log",
    benchmark:
        "benchmarks/overview.tsv"
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=4_000,
        runtime=10,
    params:
        code=code("overview"),
        script=SCRIPTS / "overview.py",
    shell:
        "python {params.script:q} --pass1 {input.pass1:q} --pass2 {input.pass2:q} --pass3 {input.pass3:q}"
        " --pass4 {input.pass4:q} --entered {input.entered:q} --matrix {input.matrix:q}"
        " --clusters {input.clusters:q} --out-picture {output.picture:q} > {log:q} 2>&1"


rule cost:
    """What the passes will cost on this table and machine, before they run; beside it what finished ones did cost."""
    input:
        TABLES,
    log:
        "logs/cost.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    threads: 8
    resources:
        mem_mb=4_000,
        runtime=10,
        machine=MACHINE,
    params:
        settings=lambda wildcards: json.dumps({key: config["descriptors"][key] for key in Descriptors.model_fields}),
        script=SCRIPTS / "cost.py",
        root=copies,
        columns=[f"{DESCRIPTORS}/pass{number}_columns.txt" for number in (1, 2, 3)],
        records=[f"{DESCRIPTORS}/provenance/pass{number}.json" for number in (1, 2, 3, 4)],
    shell:
        "python {params.script:q} --settings {params.settings:q} {resources.machine} --threads {threads}"
        " {params.root} --columns {params.columns:q} --provenance-of {params.records:q} 2>&1 | tee {log:q}"


rule descriptors:
    """The non-redundant descriptors, with the reason for every removal."""
    input:
        # all products but the rank codes, which may be deleted once all is done
        rules.pass0.output.manifest,
        rules.pass1.output.details,
        rules.pass1.output.columns,
        rules.pass1.output.stats,
        rules.pass2.output,
        rules.pass3.output,
        rules.pass4.output,
        rules.overview.output,


if workflow.is_main_process:
    RECORDS = [each.output.details for each in (rules.pass1, rules.pass2, rules.pass3, rules.pass4)]
    for number, record in enumerate(RECORDS, start=1):
        checked(check_record, f"pass{number}", record)
    if STORAGE is None:  # what is there was put there whole, and is looked at by who fetches it
        checked(check_results, rules.descriptors.input, RECORDS)
