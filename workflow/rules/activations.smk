# Activation stores: one job a (model, part). Checkpoints are dumped on a subset of the corpus, in one part.


rule dump:
    input:
        model=lambda w: paths.model(w.model.partition("@")[0]),
        corpus=paths.corpus,
    output:
        store(paths.activations("{model}", "{part}")),
    params:
        settings=lambda w: stages.DumpSettings.of(study, w.model, int(w.part)).canonical(),
        folder=lambda w: paths.model(w.model),
    log:
        paths.log("dump", "{model}", "part-{part}"),
    benchmark:
        paths.benchmark("dump", "{model}", "part-{part}")
    threads: rules_of.threads("dump")
    resources:
        **rules_of.resources("dump"),
    shell:
        "rlgen dump --settings {params.settings:q} --model {params.folder:q} --corpus {input.corpus:q}"
        " --out {output:q} > {log:q} 2>&1"
