# Causal tests of the localised features, with their controls.

if study.localisation:

    rule intervene:
        input:
            rules_of.mode_files,
            lambda w: stages.InterveneSettings.of(study, w.edit).verifier_files,
            crosscoders=lambda w: [paths.crosscoder(fit) for fit in study.edited_with(w.crosscoder)],
            diagnostics=lambda w: [paths.diagnostics(fit) for fit in study.edited_with(w.crosscoder)],
            localisations=lambda w: [paths.localisation(fit) for fit in study.edited_with(w.crosscoder)],
            base=paths.model(BASE),
            arm=lambda w: paths.model(study.localised[w.crosscoder]),
            corpus=paths.corpus,
            tasks=[paths.task(task) for tasks in study.measured_groups.values() for task in tasks],
        output:
            directory(paths.intervention("{crosscoder}", "{edit}")),
        wildcard_constraints:
            crosscoder=rules_of.localised,
            edit="|".join(study.edits),
        params:
            settings=lambda w: stages.InterveneSettings.of(study, w.edit).canonical(),
            edited=lambda w, input: " ".join(
                [
                    each("--crosscoder", input.crosscoders),
                    each("--diagnostics", input.diagnostics),
                    each("--localisation", input.localisations),
                ]
            ),
            tasks=lambda w, input: each("--task", input.tasks),
        log:
            paths.log("intervene", "{crosscoder}", "{edit}"),
        benchmark:
            paths.benchmark("intervene", "{crosscoder}", "{edit}")
        threads: rules_of.threads("intervene")
        resources:
            **rules_of.resources("intervene"),
        shell:
            "rlgen intervene {wildcards.edit} --settings {params.settings:q} {params.edited} --base {input.base:q}"
            " --arm {input.arm:q} --corpus {input.corpus:q} {params.tasks} --out {output:q} > {log:q} 2>&1"


if study.localisation and study.localisation.oracle:

    rule compare:
        input:
            rules_of.mode_files,
            stages.CompareSettings.of_main(study).verifier_files,
            crosscoder=paths.crosscoder(study.localisation.crosscoder),
            diagnostics=paths.diagnostics(study.localisation.crosscoder),
            localisation=paths.localisation(study.localisation.crosscoder),
            base=paths.model(BASE),
            arm=paths.model(study.localisation.arm),
            tasks=[paths.task(task) for tasks in study.measured_groups.values() for task in tasks],
        output:
            directory(paths.comparison(study.localisation.crosscoder)),
        params:
            settings=lambda w: stages.CompareSettings.of_main(study).canonical(),
            edit=study.main_edit,
            tasks=lambda w, input: each("--task", input.tasks),
        log:
            paths.log("compare"),
        benchmark:
            paths.benchmark("compare")
        threads: rules_of.threads("compare")
        resources:
            **rules_of.resources("compare"),
        shell:
            "rlgen compare {params.edit} --settings {params.settings:q} --crosscoder {input.crosscoder:q}"
            " --diagnostics {input.diagnostics:q} --localisation {input.localisation:q} --base {input.base:q}"
            " --arm {input.arm:q} {params.tasks} --out {output:q} > {log:q} 2>&1"
