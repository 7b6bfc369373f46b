from snakemake.utils import min_version

min_version("9.0")


# a --configfile stands for itself; laid over the demo's it would inherit what it leaves out
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"


wildcard_constraints:
    iteration=r"[1-9]\d*",


if config["molecules"]:

    include: "workflow/rules/molecules.smk"


if config["descriptors"]:

    include: "workflow/rules/descriptors.smk"
    include: "workflow/rules/way_out.smk"


if config["taxoclass"]:

    include: "workflow/rules/taxoclass.smk"


if config["descriptors"] or config["taxoclass"]:

    include: "workflow/rules/report.smk"


rule all:
    """Everything that the config asks for."""
    default_target: True
    input:
        rules.molecules.input if config["molecules"] else [],
        rules.descriptors.input if config["descriptors"] else [],
        WAY_OUT if config["descriptors"] else [],
        rules.taxoclass.input if config["taxoclass"] else [],
        rules.report.output if config["descriptors"] or config["taxoclass"] else [],
