"""The way in: from SMILES to a table of descriptors, a job a shard."""

MOLECULES = f"{RESULTS}/molecules"
MOLECULE_PATTERN = config["molecules"]["molecules_glob"]
checked(check_is_here, "molecules.molecules_glob", MOLECULE_PATTERN)
MOLECULE_FILES = checked(find_files, MOLECULE_PATTERN, None, "molecules.molecules_glob")
MOLECULE_SHARDS = config["molecules"]["molecule_shards"]
# of equal width, so that the order of their names is that of the molecules
MOLECULE_NUMBERS = [f"{shard:0{len(str(MOLECULE_SHARDS))}}" for shard in range(1, MOLECULE_SHARDS + 1)]
MOLECULE_MACHINE = machine("molecules")

if workflow.is_main_process:
    checked(check_paths, [RESULTS, *MOLECULE_FILES])


rule read_molecules:
    """Read the molecules and deal them out to the shards."""
    input:
        # by content, not by time: their digest is a parameter
        ancient([input_file(path) for path in MOLECULE_FILES]),
    output:
        shards=[f"{MOLECULES}/shards/molecules_{number}_of_{MOLECULE_SHARDS}.parquet" for number in MOLECULE_NUMBERS],
    log:
        "logs/read_molecules.log",
    benchmark:
        "benchmarks/read_molecules.tsv"
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=4_000,
        runtime=60,
        machine=MOLECULE_MACHINE,
    params:
        settings=settings("read_molecules"),
        source=checked(files_digest, MOLECULE_PATTERN),
        code=code("read_molecules"),
        script=SCRIPTS / "read_molecules.py",
        provenance=f"{MOLECULES}/provenance/read_molecules.json",
    shell:
        "python {params.script:q} --settings {params.settings:q} {resources.machine} --code {params.code}"
        " --out-shards {output.shards:q} --provenance {params.provenance:q} > {log:q} 2>&1"


rule molecules_shard:
    """Descriptors of one shard of the molecules."""
    input:
        molecules=f"{MOLECULES}/shards/molecules_{{number}}_of_{MOLECULE_SHARDS}.parquet",
    output:
        table=f"{MOLECULES}/descriptors_{{number}}_of_{MOLECULE_SHARDS}.parquet",
        failures=f"{MOLECULES}/shards/failures_{{number}}_of_{MOLECULE_SHARDS}.tsv",
    log:
        "logs/molecules_{number}.log",
    benchmark:
        "benchmarks/molecules_{number}.tsv"
    conda:
        "../../envs/molecules.yaml"
    threads: 8
    resources:
        mem_mb=8_000,
        runtime=480,
        machine=MOLECULE_MACHINE,
    params:
        settings=settings("molecules_shard"),
        code=code("molecules_shard"),
        script=SCRIPTS / "molecules_shard.py",
        provenance=f"{MOLECULES}/provenance/molecules_{{number}}.json",
    shell:
        "python {params.script:q} --settings {params.settings:q} {resources.machine} --code {params.code} --threads {threads}"
        " --molecules {input.molecules:q} --out-table {output.table:q} --out-failures {output.failures:q}"
        " --provenance {params.provenance:q} > {log:q} 2>&1"


MOLECULE_TABLES = [
    rules.molecules_shard.output.table.apply_wildcards({"number": number}) for number in MOLECULE_NUMBERS
]


rule molecules_failures:
    """Which molecules have no descriptors and why, of all shards."""
    input:
        failures=[
            rules.molecules_shard.output.failures.apply_wildcards({"number": number}) for number in MOLECULE_NUMBERS
        ],
    output:
        failures=f"{MOLECULES}/failures.tsv",
    log:
        "logs/molecules_failures.log",
    benchmark:
        "benchmarks/molecules_failures.tsv"
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=4_000,
        runtime=10,
    params:
        code=code("molecules_failures"),
        script=SCRIPTS / "molecules_failures.py",
    shell:
        "python {params.script:q} --failures {input.failures:q} --out-failures {output.failures:q} > {log:q} 2>&1"


rule molecules:
    """The descriptors of all molecules, and which have none and why."""
    input:
        MOLECULE_TABLES,
        rules.molecules_failures.output,
