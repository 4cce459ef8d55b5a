# Features: to whom they belong, how they arose over checkpoints, which of them stand behind "base wrong, arm right".


rule attribute:
    input:
        crosscoder=paths.crosscoder("{crosscoder}"),
        diagnostics=paths.diagnostics("{crosscoder}"),
        replicates=lambda w: [paths.crosscoder(name) for name in study.replicates[w.crosscoder]],
        replicates_diagnostics=lambda w: [paths.diagnostics(name) for name in study.replicates[w.crosscoder]],
    output:
        directory(paths.attribution("{crosscoder}")),
    params:
        settings=lambda w: stages.AttributeSettings.of(study).canonical(),
        replicates=lambda w, input: each("--replicate", input.replicates)
        + each(" --replicate-diagnostics", input.replicates_diagnostics),
    log:
        paths.log("attribute", "{crosscoder}"),
    benchmark:
        paths.benchmark("attribute", "{crosscoder}")
    threads: rules_of.threads("attribute")
    resources:
        **rules_of.resources("attribute"),
    shell:
        "rlgen attribute --settings {params.settings:q} --crosscoder {input.crosscoder:q}"
        " --diagnostics {input.diagnostics:q} {params.replicates} --out {output:q} > {log:q} 2>&1"


if study.tracking:

    rule track:
        input:
            crosscoder=paths.crosscoder("{crosscoder}"),
            stores=lambda w: tracked_stores(w.crosscoder),
        output:
            directory(paths.tracking("{crosscoder}")),
        params:
            settings=lambda w: stages.TrackSettings.of(study, w.crosscoder).canonical(),
            stores=lambda w: each("--store", tracked_stores(w.crosscoder)),
        log:
            paths.log("track", "{crosscoder}"),
        benchmark:
            paths.benchmark("track", "{crosscoder}")
        threads: rules_of.threads("track")
        resources:
            **rules_of.resources("track"),
        shell:
            "rlgen track --settings {params.settings:q} --crosscoder {input.crosscoder:q} {params.stores}"
            " --out {output:q} > {log:q} 2>&1"


if study.localisation:

    rule localise:
        input:
            crosscoder=paths.crosscoder("{crosscoder}"),
            diagnostics=paths.diagnostics("{crosscoder}"),
            base=paths.model(BASE),
            arm=lambda w: paths.model(study.localised[w.crosscoder]),
            base_evaluation=paths.evaluation(BASE),
            arm_evaluation=lambda w: paths.evaluation(study.localised[w.crosscoder]),
            tasks=[paths.task(task.name) for task in study.tasks.transfer],
        output:
            directory(paths.localisation("{crosscoder}")),
        wildcard_constraints:
            crosscoder=rules_of.localised,
        params:
            settings=lambda w: stages.LocaliseSettings.of(study, w.crosscoder).canonical(),
            tasks=lambda w, input: each("--task", input.tasks),
        log:
            paths.log("localise", "{crosscoder}"),
        benchmark:
            paths.benchmark("localise", "{crosscoder}")
        threads: rules_of.threads("localise")
        resources:
            **rules_of.resources("localise"),
        shell:
            "rlgen localise --settings {params.settings:q} --crosscoder {input.crosscoder:q}"
            " --diagnostics {input.diagnostics:q} --base {input.base:q} --arm {input.arm:q}"
            " --base-evaluation {input.base_evaluation:q} --arm-evaluation {input.arm_evaluation:q}"
            " {params.tasks} --out {output:q} > {log:q} 2>&1"
