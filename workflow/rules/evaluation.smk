# Every model's answers to every task; the noised base's, on whom features are but localised, to the transfer tasks.


rule evaluate:
    input:
        lambda w: stages.EvaluateSettings.of(study, w.model).verifier_files,
        model=paths.model("{model}"),
        tasks=lambda w: [paths.task(task.name) for task in study.tasks_of(w.model)],
    output:
        directory(paths.evaluation("{model}")),
    params:
        settings=lambda w: stages.EvaluateSettings.of(study, w.model).canonical(),
        tasks=lambda w, input: each("--task", input.tasks),
    log:
        paths.log("evaluate", "{model}"),
    benchmark:
        paths.benchmark("evaluate", "{model}")
    threads: rules_of.threads("evaluate")
    resources:
        **rules_of.resources("evaluate"),
    shell:
        "rlgen evaluate --settings {params.settings:q} --model {input.model:q} {params.tasks}"
        " --out {output:q} > {log:q} 2>&1"
