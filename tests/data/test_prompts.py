"""Prompt templates: what they can name, and what is refused with the reason and the remedy."""

import pytest

from rlgen.data.prompts import PromptError, PromptTemplate, check_template, fields_of


def test_a_template_is_filled_as_a_format_string_is() -> None:
    template = PromptTemplate.parse("Q: {question} {{x}} {question}\n{a b}:")
    assert template.fields == ["question", "a b"]
    values = {"question": "What is {this}?", "a b": "{0}", "more": "unused"}
    assert template.fill(values) == template.text.format(**values)


def test_nothing_in_a_value_is_formatted_again() -> None:
    assert PromptTemplate.parse("{q}").fill({"q": "{q} {answer.__class__} {{}}"}) == "{q} {answer.__class__} {{}}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("", "has no field"),
        ("Question:", "has no field"),
        ("{{question}}", "has no field"),
        ("{question", "braces"),
        ("question}", "braces"),
        ("{", "braces"),
        ("{question} {", "braces"),
        ("{question!}", "braces"),
        ("{}", "plain name"),
        ("{0}", "plain name"),
        ("{ question }", "plain name"),
        ("{question.__class__}", "plain name"),
        ("{id.real.__class__}", "plain name"),
        ("{question[0]}", "plain name"),
        ("{choices[0]}", "plain name"),
        ("{question!r}", "plain name"),
        ("{question:>999999999}", "plain name"),
        ("{question:{answer}}", "plain name"),
        ("{question} \ud800", "surrogate"),
        ("x" * 10_000, "has no field"),
    ],
)
def test_what_a_template_cannot_be(template: str, message: str) -> None:
    with pytest.raises(PromptError, match=message) as caught:
        fields_of(template)
    assert len(str(caught.value)) < 300
    str(caught.value).encode()


@pytest.mark.parametrize(
    "template",
    [
        "{question}\\boxed{answer}",
        "{Answer}{question}",
        "{solution} {question}",
        "{answer!r}",
        "{answer:>5}",
        "{answer[0]}",
        "{question:{answer}}",
    ],
)
def test_the_answer_cannot_be_in_the_prompt(template: str) -> None:
    with pytest.raises(PromptError):
        check_template(template)


def test_a_template_over_one_field() -> None:
    assert check_template("{problem}\\boxed{{your_answer}}", (), ("problem",)).fields == ["problem"]
    with pytest.raises(PromptError, match=r'uses a field "your_answer"; it can use \{problem\}; double the braces'):
        check_template("{problem}\\boxed{your_answer}", (), ("problem",))
