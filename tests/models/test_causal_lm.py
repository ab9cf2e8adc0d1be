"""Causal language models: what is learned, what packing changes (nothing), and what bad rows are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, ByT5Tokenizer

from launcher.data.rows import Row
from launcher.errors import DataError, ModelError
from launcher.job.sections.data import Source
from launcher.job.sections.training import Train
from launcher.models.tasks.causal_lm import CausalLM
from launcher.models.tasks.token_loss import IGNORE_INDEX
from tests.families import llama, texts
from tests.tiny import WORDS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("llama"))


def task_of(folder: Path, **train: Any) -> CausalLM:
    return CausalLM(AutoTokenizer.from_pretrained(folder), (), Train(**{"max_length": 32, **train}))


def row(**values: Any) -> Row:
    return Row("f.jsonl", 7, values)


def examples(task: CausalLM, rows: list[Row]) -> list[dict[str, Any]]:
    columns = task.prepare(rows, labelled=True)
    return [{name: np.asarray(values[i]) for name, values in columns.items()} for i in range(len(rows))]


def learned(task: CausalLM, **values: Any) -> str:
    """The tokens of a row that are learned, as text."""
    (example,) = examples(task, [row(**values)])
    return str(task.processor.decode([token for token in example["targets"] if token != IGNORE_INDEX]))


def test_of_a_plain_text_every_token_and_the_end_are_learned(folder: Path) -> None:
    a, b = WORDS[:2]
    assert learned(task_of(folder), text=f"{a} {b}") == f"{a} {b} </s>"


def test_of_a_prompt_and_its_response_the_response_is_learned(folder: Path) -> None:
    a, b, c = WORDS[:3]
    assert learned(task_of(folder), prompt=f"{a} {b}", response=c) == f"{c} </s>"


def test_of_a_chat_the_assistants_turns_are_learned(folder: Path) -> None:
    a, b, c, d = WORDS[:4]
    turns = [("system", d), ("user", a), ("assistant", b), ("user", a), ("assistant", f"{c} {d}")]
    chat = [{"role": role, "content": content} for role, content in turns]
    assert learned(task_of(folder), messages=chat) == f"{b} </s> {c} {d} </s>"


def test_a_long_text_is_cut(folder: Path) -> None:
    (example,) = examples(task_of(folder, max_length=5), [row(text=" ".join(WORDS[:20]))])
    assert example["length"] == len(example["input_ids"]) == len(example["targets"]) == 5


def test_the_loss_is_that_of_transformers(folder: Path) -> None:
    task = task_of(folder)
    module = task.build(AutoModelForCausalLM.from_pretrained(folder)).eval()
    batch = task.collate(
        examples(task, [row(prompt=WORDS[0], response=" ".join(WORDS[1:n])) for n in (3, 9, 5)]), [0, 1, 2]
    )
    labels = batch.targets.roll(1, 1)
    expected = module.model(**batch.inputs, labels=labels).loss
    torch.testing.assert_close(module(batch).weighted.sum() / batch.weight, expected, rtol=1e-6, atol=1e-7)


SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
SMALL: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    "qwen2": {**SIZES, "num_key_value_heads": 2},
    "gpt_neox": SIZES,
    "mistral": {**SIZES, "num_key_value_heads": 2, "sliding_window": 6},
}


@pytest.mark.parametrize("kind", SMALL)
def test_packed_samples_have_the_loss_and_the_gradient_of_samples_apart(kind: str, folder: Path) -> None:
    task = task_of(folder, packing=True)
    torch.manual_seed(1)
    config = AutoConfig.for_model(kind, vocab_size=200, pad_token_id=0, bos_token_id=1, eos_token_id=2, **SMALL[kind])
    module = task.build(AutoModelForCausalLM.from_config(config)).train()
    some = examples(task, [row(text=" ".join(words)) for words in texts(3, 11)])
    packed, apart = task.collate(some, range(11), 0), task.collate(some, range(11), None)
    assert len(packed.targets) < 0.7 * len(apart.targets)
    assert (packed.samples, packed.weight, packed.tokens) == (apart.samples, apart.weight, apart.tokens)
    found = [_loss_and_gradients(module, batch) for batch in (packed, apart)]
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=1e-6)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def _loss_and_gradients(module: Any, batch: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    module.zero_grad()
    loss = module(batch).weighted.sum() / batch.weight
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in module.parameters()]


def test_no_packed_sample_feels_another(folder: Path) -> None:
    task = task_of(folder, packing=True)
    module = task.build(AutoModelForCausalLM.from_pretrained(folder)).eval()
    some = examples(task, [row(text=" ".join(words)) for words in texts(4, 3, longest=8)])
    batch = task.collate(some, range(3), 0)
    assert len(batch.targets) == 1
    embedded = module.model.get_input_embeddings()(batch.inputs["input_ids"]).detach().requires_grad_()
    scores = module.model(inputs_embeds=embedded, position_ids=batch.inputs["position_ids"], use_cache=False).logits
    first, second = (int(example["length"]) for example in some[:2])
    (gradient,) = torch.autograd.grad(scores[0, first : first + second].sum(), embedded)
    reached = gradient[0].abs().sum(-1) > 0
    assert reached.nonzero().flatten().tolist() == list(range(first, first + second))


ONE_TEXT: dict[str, dict[str, Any]] = {
    "mamba": {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4},
    "lfm2": {**SIZES, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]},
    "opt": {"hidden_size": 32, "ffn_dim": 48, "num_attention_heads": 4, "num_hidden_layers": 1},
    "falcon": {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1},
}
"""The last two take positions, and attend from each token to all before it whatever these are."""


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("kind", ONE_TEXT)
def test_a_model_that_reads_a_row_as_one_text_is_not_packed(kind: str, device: str, folder: Path) -> None:
    config = AutoConfig.for_model(kind, vocab_size=200, **ONE_TEXT[kind])
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ModelError, match=f"(?i){kind}ForCausalLM would attend from one packed sample to another"):
        task_of(folder, packing=True).build(model)


def test_whether_a_model_can_be_packed_is_known_without_its_weights(folder: Path) -> None:
    drawn = torch.get_rng_state()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    assert task_of(folder, packing=True).build(model).model is model
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_prompt_is_answered_as_transformers_answers_it(folder: Path) -> None:
    task = task_of(folder)
    module = task.build(AutoModelForCausalLM.from_pretrained(folder)).eval()
    rows = [row(prompt=" ".join(WORDS[:n])) for n in (1, 4, 2)]
    columns = task.prepare(rows, labelled=False)
    some = [{name: np.asarray(values[i]) for name, values in columns.items()} for i in range(3)]
    answers = task.answer(module, task.collate(some, range(3)))
    for example, answer in zip(some, answers, strict=True):
        ids = torch.tensor(example["input_ids"])[None]
        alone = module.model.generate(ids, do_sample=False, max_new_tokens=32 - ids.shape[1], pad_token_id=0)
        assert answer == {"response": task.processor.decode(alone[0, ids.shape[1] :], skip_special_tokens=True)}


def test_a_text_is_scored(folder: Path) -> None:
    task = task_of(folder)
    module = task.build(AutoModelForCausalLM.from_pretrained(folder)).eval()
    some = examples(task, [row(text=" ".join(WORDS[:n])) for n in (2, 6)])
    with torch.no_grad():
        batch = task.collate(some, range(2))
        found = task.answer(module, batch)
    assert [one["tokens"] for one in found] == [2, 6]
    assert found[0]["perplexity"] == pytest.approx(
        float(module(task.collate(some[:1], [0])).weighted.sum().div(2).exp())
    )


def test_a_source_names_one_kind_of_text() -> None:
    assert CausalLM.columns(Source(source="f")) == {"text": "text"}
    assert CausalLM.columns(Source(source="f", prompt="q", response="a")) == {"prompt": "q", "response": "a"}
    assert CausalLM.columns(Source(source="f", prompt="q", response="a"), labelled=False) == {"prompt": "q"}
    assert CausalLM.columns(Source(source="f", messages="m")) == {"messages": "m"}


def turn(role: str, content: Any = WORDS[0]) -> dict[str, Any]:
    return {"role": role, "content": content}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no assistant": (
        {"messages": [turn("user")]},
        "no turn of the role assistant .its roles are user.* rename the role",
    ),
    "not a chat": ({"messages": "hello"}, "the messages is 'hello', not a list"),
    "an empty chat": ({"messages": []}, "not a list"),
    "no content": ({"messages": [turn("user"), {"role": "assistant"}]}, "message 2 is .*not {role: …, content: …}"),
    "content that is no text": ({"messages": [turn("assistant", 3)]}, "message 1 is"),
    "an empty prompt": ({"prompt": " ", "response": "a"}, "the prompt is empty"),
    "a response that is no text": ({"prompt": WORDS[0], "response": 3}, "the response is 3, not text"),
    "a prompt beyond the length": (
        {"prompt": " ".join(WORDS[:40]), "response": WORDS[0]},
        "begins after 40 tokens, beyond train.max_length: 32; raise",
    ),
    "a chat beyond the length": (
        {"messages": [turn("user", " ".join(WORDS[:40])), turn("assistant")]},
        "beyond train.max_length: 32",
    ),
}


@pytest.mark.parametrize(("values", "said"), BAD.values(), ids=BAD)
def test_a_bad_row_is_told_with_its_place(values: dict[str, Any], said: str, folder: Path) -> None:
    with pytest.raises(DataError, match=rf"f\.jsonl, row 7: .*{said}"):
        task_of(folder).prepare([row(**values)], labelled=True)


def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="the prompt has 40 tokens, and prompt and answer together may have 32"):
        task_of(folder).prepare([row(prompt=" ".join(WORDS[:40]))], labelled=False)


def test_a_tokenizer_without_a_chat_template_is_refused(folder: Path) -> None:
    task = task_of(folder)
    task.processor.chat_template = None
    with pytest.raises(ModelError, match="no chat template; use the columns prompt and response"):
        task.prepare([row(messages=[turn("user"), turn("assistant")])], labelled=True)


def test_a_tokenizer_that_does_not_tell_places_is_refused_for_chats(folder: Path) -> None:
    task = CausalLM(ByT5Tokenizer(chat_template="{{ messages }}"), (), Train(max_length=32))
    with pytest.raises(ModelError, match="the positions of tokens in the text; use a fast tokenizer"):
        task.prepare([row(messages=[turn("user"), turn("assistant")])], labelled=True)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('only two turns') }}", "rejects the chat: only two turns"),
        ("{{ messages | length }} {% for m in messages %}{{ m.content }} {% endfor %}", "writes message 2 differently"),
    ],
)
def test_a_template_that_does_not_suit_is_told(template: str, said: str, folder: Path) -> None:
    task = task_of(folder)
    task.processor.chat_template = template
    with pytest.raises(DataError, match=said):
        task.prepare([row(messages=[turn("user"), turn("assistant"), turn("user"), turn("assistant")])], labelled=True)
