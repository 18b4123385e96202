"""The three families of organisms: their chat formats, tokenizers and configurations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VOCABULARY = 1536
# Letters, single digits, white space and punctuation are separate pieces, and each word includes the space before it.
# The Qwen2 tokenizer class enforces this split; it is used for all three families.
WORD_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Family:
    """The properties in which the organisms differ.

    Attributes:
        name: The name of the family.
        bos: The beginning-of-sequence token; None if the chat format has none.
        end: The token that ends every turn; it is also the end-of-sequence token of the model.
        header: The text that opens a turn, in which ``{role}`` stands for the name of the role.
        assistant: The name of the assistant in the header.
        system_role: False if the system text is put before the first user turn, because Gemma has no system role.
        specials: The special tokens.
    """

    name: str
    bos: str | None
    end: str
    header: str
    assistant: str
    system_role: bool
    specials: tuple[str, ...]

    @property
    def template(self) -> str:
        """The chat template (Jinja) that is saved with the tokenizer."""
        bos = "{{ bos_token }}" if self.bos else ""
        role, roles = "message['role']", ""
        if self.assistant != "assistant":
            role = "roles[message['role']]"
            roles = f"{{% set roles = {{'user': 'user', 'assistant': '{self.assistant}'}} %}}"
        start, stop = map(repr, self.header.split("{role}"))
        end, generation = repr(self.end), repr(self.header.format(role=self.assistant))
        turn = f"{{{{ {start} + {role} + {stop} + %s + {end} + '\\n' }}}}"
        if self.system_role:
            body = "{% for message in messages %}" + turn % "message['content']" + "{% endfor %}"
        else:
            body = (
                "{% set ns = namespace(system='') %}{% for message in messages %}"
                "{% if message['role'] == 'system' %}{% set ns.system = message['content'] + '\\n' %}"
                "{% else %}"
                + turn % "ns.system + message['content']"
                + "{% set ns.system = '' %}{% endif %}{% endfor %}"
            )
        return f"{bos}{roles}{body}{{% if add_generation_prompt %}}{{{{ {generation} }}}}{{% endif %}}"


FAMILIES: dict[str, Family] = {
    f.name: f
    for f in (
        Family(
            "qwen2", None, "<|im_end|>", "<|im_start|>{role}\n", "assistant", True,
            ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        ),
        Family(
            "llama", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>{role}<|end_header_id|>\n\n", "assistant",
            True, ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        ),
        Family(
            "gemma2", "<bos>", "<end_of_turn>", "<start_of_turn>{role}\n", "model", False,
            ("<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        ),
    )
}  # fmt: skip
PADDING = {"qwen2": "<|endoftext|>", "llama": "<|end_of_text|>", "gemma2": "<pad>"}


def build_tokenizer(family: Family, corpus: Iterable[str], folder: Path) -> Any:
    """Train a byte-level BPE on the corpus, save it as a Hugging Face tokenizer, and read it with AutoTokenizer.

    It is read again after saving because AutoTokenizer chooses the class by the type of the model, and that class may
    assign other ids than the saved object.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(family.specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(corpus, trainer)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in family.specials])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=family.bos,
        eos_token=family.end,
        pad_token=PADDING[family.name],
        unk_token=None,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = family.template
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def build_config(family: Family, tokenizer: Any) -> Any:
    """Return the configuration of an organism: 12 blocks, d_model 128, four query heads on two key–value heads."""
    from transformers import Gemma2Config, LlamaConfig, Qwen2Config

    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 128,
        "intermediate_size": 448,
        "num_hidden_layers": 12,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if family.name == "qwen2":
        return Qwen2Config(**shape, tie_word_embeddings=True)
    if family.name == "llama":
        return LlamaConfig(**shape, tie_word_embeddings=False)
    return Gemma2Config(**shape, head_dim=32, query_pre_attn_scalar=32, sliding_window=64)
