# Problems, tasks and corpus.


if study.problems.sources:

    rule problems:
        input:
            rules_of.problem_files,
            stages.ProblemsSettings.of(study).verifier_files,
            tasks=[paths.task(task) for task in study.decontaminated],
            base=[paths.model(BASE)] if stages.ProblemsSettings.of(study).problems.limited else [],
        output:
            directory(paths.problems),
        params:
            settings=lambda w: stages.ProblemsSettings.of(study).canonical(),
            given=lambda w, input: f"{each('--task', input.tasks)} {each('--base', input.base)}",
        log:
            paths.log("problems"),
        benchmark:
            paths.benchmark("problems")
        threads: rules_of.threads("problems")
        resources:
            **rules_of.resources("problems"),
        shell:
            "rlgen problems --settings {params.settings:q} {params.given} --out {output:q} > {log:q} 2>&1"


rule task:
    input:
        lambda w: rules_of.task_files(w.task),
    output:
        directory(paths.task("{task}")),
    params:
        settings=lambda w: stages.TaskSettings.of(study, w.task).canonical(),
    log:
        paths.log("task", "{task}"),
    benchmark:
        paths.benchmark("task", "{task}")
    threads: rules_of.threads("task")
    resources:
        **rules_of.resources("task"),
    shell:
        "rlgen task --settings {params.settings:q} --out {output:q} > {log:q} 2>&1"


rule corpus:
    input:
        rules_of.corpus_files,
        base=paths.model(BASE),
        problems=[paths.training] if study.problems.sources else [],
    output:
        directory(paths.corpus),
    params:
        settings=lambda w: stages.CorpusSettings.of(study).canonical(),
    log:
        paths.log("corpus"),
    benchmark:
        paths.benchmark("corpus")
    threads: rules_of.threads("corpus")
    resources:
        **rules_of.resources("corpus"),
    shell:
        "rlgen corpus --settings {params.settings:q} --base {input.base:q}"
        + (" --problems {input.problems:q}" if study.problems.sources else "")  # a parameter would rerun it
        + " --out {output:q} > {log:q} 2>&1"
