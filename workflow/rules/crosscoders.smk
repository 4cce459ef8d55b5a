# Crosscoders, the nulls' among them, and what each of them explains.


rule fit:
    input:
        stores=lambda w: stores(study.fits[w.crosscoder].models),
    output:
        directory(paths.crosscoder("{crosscoder}")),
    params:
        settings=lambda w: stages.FitSettings.of(study, w.crosscoder).canonical(),
        stores=lambda w, input: each("--store", stores(study.fits[w.crosscoder].models)),
    log:
        paths.log("fit", "{crosscoder}"),
    benchmark:
        paths.benchmark("fit", "{crosscoder}")
    localrule: rules_of.submitted("fit")
    threads: rules_of.threads("fit")
    resources:
        **rules_of.resources("fit"),
        processes=lambda w: rules_of.fit_processes(w.crosscoder),  # a resource, as another number reruns nothing
        launch=rules_of.launch("fit", site("fit")),
    shell:
        "rlgen {resources.launch}fit --processes {resources.processes} --settings {params.settings:q} {params.stores}"
        " --out {output:q} > {log:q} 2>&1"


rule diagnose:
    input:
        crosscoder=paths.crosscoder("{crosscoder}"),
        models=lambda w: [paths.model(model) for model in study.fits[w.crosscoder].models],
        corpus=paths.corpus,
        stores=lambda w: stores(study.fits[w.crosscoder].models),
    output:
        directory(paths.diagnostics("{crosscoder}")),
    params:
        settings=lambda w: stages.FitSettings.of(study, w.crosscoder).canonical(),
        models=lambda w: each("--model", [paths.model(m) for m in study.fits[w.crosscoder].models]),
        stores=lambda w: each("--store", stores(study.fits[w.crosscoder].models)),
    log:
        paths.log("diagnose", "{crosscoder}"),
    benchmark:
        paths.benchmark("diagnose", "{crosscoder}")
    threads: rules_of.threads("diagnose")
    resources:
        **rules_of.resources("diagnose"),
    shell:
        "rlgen diagnose --settings {params.settings:q} --crosscoder {input.crosscoder:q} {params.models}"
        " {params.stores} --corpus {input.corpus:q} --out {output:q} > {log:q} 2>&1"
