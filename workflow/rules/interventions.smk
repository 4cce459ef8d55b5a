# Causal tests of the localised features, with their controls.

if study.localisation:

    rule intervene:
        input:
            crosscoder=paths.crosscoder(study.localisation.crosscoder),
            diagnostics=paths.diagnostics(study.localisation.crosscoder),
            localisation=paths.localisation(study.localisation.crosscoder),
            base=paths.model(BASE),
            arm=paths.model(study.localisation.arm),
            tasks=[paths.task(task) for tasks in study.measured_groups.values() for task in tasks],
        output:
            directory(paths.intervention("{edit}")),
        wildcard_constraints:
            edit="ablate|amplify",
        params:
            settings=lambda w: stages.InterveneSettings.of(study, w.edit).canonical(),
            tasks=lambda w, input: each("--task", input.tasks),
        log:
            paths.log("intervene", "{edit}"),
        benchmark:
            paths.benchmark("intervene", "{edit}")
        threads: rules_of.threads("intervene")
        resources:
            **rules_of.resources("intervene"),
        shell:
            "rlgen intervene {wildcards.edit} --settings {params.settings:q} --crosscoder {input.crosscoder:q}"
            " --diagnostics {input.diagnostics:q} --localisation {input.localisation:q} --base {input.base:q}"
            " --arm {input.arm:q} {params.tasks} --out {output:q} > {log:q} 2>&1"
