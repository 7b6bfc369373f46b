"""What follows from a selection: the reduced table, and whether it predicts as well as the whole one."""


rule selected:
    """The input again, all rows, with its metadata and the selected descriptors only."""
    input:
        manifest=rules.pass0.output.manifest,
        columns=rules.pass4.output.columns,
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
        provenance=f"{DESCRIPTORS}/provenance/selected.json",
    shell:
        "python {params.script:q} --settings {params.settings:q} {resources.machine} --code {params.code}"
        " --manifest {input.manifest:q} --columns {input.columns:q} --out-table {output.table:q}"
        " --provenance {params.provenance:q} > {log:q} 2>&1"


# what a run makes by itself; the rest, when it is asked for
WAY_OUT = [
    *(rules.selected.output if config["descriptors"]["selected_table"] else []),
]
