# Every number by name, and the page drawn from them.


rule summary:
    input:
        evaluations=[paths.evaluation(model) for model in study.models],
        features=[paths.attribution(name) for name in study.fits],
        tracking=[paths.tracking(name) for name in (study.tracking.crosscoders if study.tracking else [])],
        interventions=[paths.intervention(fit, edit) for fit in study.localised for edit in study.edits_of(fit)],
        comparison=[paths.comparison(rule.crosscoder) for rule in [study.localisation] if rule and rule.oracle],
    output:
        paths.summary,
    params:
        settings=lambda w: stages.SummarySettings.of(study).canonical(),
        root=paths.root,
    log:
        paths.log("summary"),
    benchmark:
        paths.benchmark("summary")
    threads: rules_of.threads("summary")
    resources:
        **rules_of.resources("summary"),
    shell:
        "rlgen summary --settings {params.settings:q} --root {params.root:q} --out {output:q} > {log:q} 2>&1"


rule report:
    input:
        summary=paths.summary,
    output:
        directory(paths.report),
    params:
        settings=lambda w: stages.ReportSettings.of(study).canonical(),
        root=paths.root,
    log:
        paths.log("report"),
    benchmark:
        paths.benchmark("report")
    threads: rules_of.threads("report")
    resources:
        **rules_of.resources("report"),
    shell:
        "rlgen report --settings {params.settings:q} --summary {input.summary:q} --root {params.root:q}"
        " --out {output:q} > {log:q} 2>&1"
