# The base, the teacher, the arms, and the noise null.

if rules_of.pretrained:

    rule pretrain:
        output:
            directory(paths.model(BASE)),
        params:
            settings=lambda w: stages.PretrainSettings.of(study).canonical(),
        log:
            paths.log("pretrain"),
        benchmark:
            paths.benchmark("pretrain")
        threads: rules_of.threads("pretrain")
        resources:
            **rules_of.resources("pretrain"),
        shell:
            "rlgen pretrain --settings {params.settings:q} --out {output:q} > {log:q} 2>&1"


rule adopt:
    input:
        lambda w: rules_of.model_files(w.model),
        base=lambda w: base_of(w.model),
    output:
        directory(paths.model("{model}")),
    wildcard_constraints:
        model=rules_of.adopted,
    params:
        settings=lambda w: stages.AdoptSettings.of(study, w.model).canonical(),
        base=lambda w: each("--base", base_of(w.model)),
    log:
        paths.log("adopt", "{model}"),
    benchmark:
        paths.benchmark("adopt", "{model}")
    threads: rules_of.threads("adopt")
    resources:
        **rules_of.resources("adopt"),
        documents=lambda w: rules_of.documents(w.model),  # a resource, as another answer reruns nothing
    shell:
        "rlgen adopt --settings {params.settings:q} {params.base} {resources.documents} --out {output:q} > {log:q} 2>&1"


if study.teacher:

    rule teacher:
        input:
            stages.TeacherSettings.of(study).verifier_files,
            model=paths.model(TEACHER),
            problems=paths.problems,
            base=[paths.model(BASE)] if study.problems.max_solution_tokens else [],
        output:
            directory(paths.solutions),
        params:
            settings=lambda w: stages.TeacherSettings.of(study).canonical(),
            base=lambda w, input: each("--base", input.base),
        log:
            paths.log("teacher"),
        benchmark:
            paths.benchmark("teacher")
        threads: rules_of.threads("teacher")
        resources:
            **rules_of.resources("teacher"),
        shell:
            "rlgen teacher --settings {params.settings:q} --model {input.model:q} --problems {input.problems:q}"
            " {params.base} --out {output:q} > {log:q} 2>&1"


rule sft:
    input:
        base=paths.model(BASE),
        problems=paths.training,
    output:
        directory(paths.model("{arm}")),
    wildcard_constraints:
        arm=rules_of.arms("sft"),
    params:
        settings=lambda w: stages.SftSettings.of(study, w.arm).canonical(),
    log:
        paths.log("sft", "{arm}"),
    benchmark:
        paths.benchmark("sft", "{arm}")
    localrule: rules_of.submitted("sft")
    threads: rules_of.threads("sft")
    resources:
        **rules_of.resources("sft"),
        processes=rules_of.processes("sft"),  # a resource, as another number reruns nothing
        launch=rules_of.launch("sft", site("sft")),
        monitor=lambda w: str(paths.monitor(w.arm)),
    shell:
        "rlgen {resources.launch}sft --processes {resources.processes} {monitors} --monitor-folder {resources.monitor:q}"
        " --settings {params.settings:q} --base {input.base:q} --problems {input.problems:q}"
        " --out {output:q} > {log:q} 2>&1"


rule grpo:
    input:
        lambda w: rules_of.reward_files(w.arm),
        lambda w: stages.GrpoSettings.of(study, w.arm).verifier_files,
        base=paths.model(BASE),
        problems=paths.training,
    output:
        directory(paths.model("{arm}")),
    wildcard_constraints:
        arm=rules_of.arms("grpo"),
    params:
        settings=lambda w: stages.GrpoSettings.of(study, w.arm).canonical(),
    log:
        paths.log("grpo", "{arm}"),
    benchmark:
        paths.benchmark("grpo", "{arm}")
    localrule: rules_of.submitted("grpo")
    threads: rules_of.threads("grpo")
    resources:
        **rules_of.resources("grpo"),
        processes=rules_of.processes("grpo"),  # a resource, as another number reruns nothing
        launch=rules_of.launch("grpo", site("grpo")),
        monitor=lambda w: str(paths.monitor(w.arm)),
    shell:
        "rlgen {resources.launch}grpo --processes {resources.processes} {monitors} --monitor-folder {resources.monitor:q}"
        " --settings {params.settings:q} --base {input.base:q} --problems {input.problems:q}"
        " --out {output:q} > {log:q} 2>&1"


if study.nulls:

    rule perturb:
        input:
            base=paths.model(BASE),
            like=paths.model(study.nulls.noise_like),
        output:
            directory(paths.model(NOISE)),
        params:
            settings=lambda w: stages.PerturbSettings.of(study).canonical(),
        log:
            paths.log("perturb"),
        benchmark:
            paths.benchmark("perturb")
        threads: rules_of.threads("perturb")
        resources:
            **rules_of.resources("perturb"),
        shell:
            "rlgen perturb --settings {params.settings:q} --base {input.base:q} --like {input.like:q}"
            " --out {output:q} > {log:q} 2>&1"
