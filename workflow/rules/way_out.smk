"""What follows from a selection: the reduced table, and whether it predicts as well as the whole one."""

TARGET, TARGET_FILE, TARGET_KEY = (config["descriptors"][f"utility_{key}"] for key in ("target", "file", "key"))

if workflow.is_main_process and TARGET is not None and not MADE:
    # before the passes run, not after them
    checked(check_target, TABLE, TARGET, TARGET_KEY)
    if TARGET_FILE is not None:
        checked(check_files, {"utility_file": TARGET_FILE}, "descriptors")


rule selected:
    """The input again, all rows, with its metadata and the selected descriptors only."""
    input:
        TABLES,
        manifest=rules.pass0.output.manifest,
        columns=rules.pass4.output.columns,
        records=rules.pass4.output.details,
    output:
        table=f"{DESCRIPTORS}/selected.parquet",
    log:
        "logs/selected.log",
    benchmark:
        "benchmarks/selected.tsv"
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=4_000,
        runtime=240,
        machine=MACHINE,
    params:
        settings=settings("selected"),
        code=code("selected"),
        script=SCRIPTS / "selected.py",
        root=copies,
        provenance=f"{DESCRIPTORS}/provenance/selected.json",
    shell:
        "python {params.script:q} --settings {params.settings:q} {resources.machine} --code {params.code}"
        " --manifest {input.manifest:q} {params.root} --records {input.records:q} --columns {input.columns:q} --out-table {output.table:q}"
        " --provenance {params.provenance:q} > {log:q} 2>&1"


rule utility:
    """A property predicted with all descriptors, with the selected ones, and with random ones."""
    input:
        TABLES,
        [] if TARGET_FILE is None else input_file(TARGET_FILE),
        manifest=rules.pass0.output.manifest,
        columns=rules.pass4.output.columns,
        pass2=rules.pass2.output.columns,
        pass3=rules.pass3.output.columns,
        records=[rules.pass2.output.details, rules.pass3.output.details, rules.pass4.output.details],
    output:
        details=f"{DESCRIPTORS}/utility.json",
        table=report(
            f"{DESCRIPTORS}/utility.tsv",
            category="descriptors",
            caption="../report/utility.rst",
        ),
    log:
        "logs/utility.log",
    benchmark:
        "benchmarks/utility.tsv"
    conda:
        "../../envs/cpu.yaml"
    threads: 4
    resources:
        mem_mb=8_000,
        runtime=480,
        machine=MACHINE,
    params:
        settings=settings("utility"),
        code=code("utility"),
        script=SCRIPTS / "utility.py",
        root=copies,
        provenance=f"{DESCRIPTORS}/provenance/utility.json",
    shell:
        "python {params.script:q} --settings {params.settings:q} {resources.machine} --code {params.code} --threads {threads}"
        " --manifest {input.manifest:q} {params.root} --records {input.records:q} --columns {input.columns:q} --pass2 {input.pass2:q} --pass3 {input.pass3:q} --out-details {output.details:q}"
        " --out-table {output.table:q} --provenance {params.provenance:q} > {log:q} 2>&1"


# what a run makes by itself; the rest is made when it is asked for
WAY_OUT = [
    *(rules.selected.output if config["descriptors"]["selected_table"] else []),
    *(rules.utility.output if TARGET is not None else []),
]
