"""Make a tiny random Gemma-3 with its tokenizer: a model that any CPU serves and that says nonsense.

    python tiny_checkpoint.py DIRECTORY

Runs in the environment of scripts/vllm-cpu (torch, transformers, tokenizers). Twelve layers of 128, a
byte-level BPE trained on the few texts below, weights from a fixed seed: the same files every time. Byte-
level means that a Hebrew letter or an emoji may take several tokens, as it does in real models. It hardly
ever ends by itself: its answers end with `length`, a stop string, or the end of a grammar. Twelve layers
make a step cost about 15 ms: with two, the engine outran its own API server on a busy machine of two
processors, which then read no socket, and so answered no GET and saw no disconnect, until the generation
was over (8 to 14 s).
"""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast

CONTEXT = 2048  # tokens
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
TEXTS = [
    "The pointsman sets the points so that each train takes the right track; he pulls no train.",
    "A router sends each request to the replica that will answer first and passes the tokens on.",
    "What is the capital of France? The capital of France is Paris. Who are you? I am a small model.",
    "שלום עולם. מה שלומך היום? אני מודל קטן שרץ על מעבד רגיל. הרכבת יוצאת מהתחנה בשעה שמונה.",
    "Numbers: 0 1 2 3 4 5 6 7 8 9. Signs: . , ; : ! ? ( ) [ ] { } \" ' / + - = < > # @ %",
    "Smileys: 🙂 🚂 👍🏽 and accents: é ü ñ ç.",
]
# Gemma's rules: no system role (it opens the first user turn), then user and assistant in turn.
CHAT_TEMPLATE = """{{ bos_token }}
{%- set first = '' -%}
{%- if messages[0]['role'] == 'system' -%}
{%- set first = messages[0]['content'] + '\n\n' -%}
{%- set messages = messages[1:] -%}
{%- endif -%}
{%- for message in messages -%}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif -%}
{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}
{{- (first if loop.first else '') + (message['content'] | trim) + '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<start_of_turn>model\n' }}
{%- endif -%}
"""


def make_tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        additional_special_tokens=["<start_of_turn>", "<end_of_turn>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> Gemma3ForCausalLM:
    torch.manual_seed(4)
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=12,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        sliding_window=512,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")],
        bos_token_id=tokenizer.bos_token_id,
    )
    model = Gemma3ForCausalLM(config)
    with torch.no_grad():
        for token in range(len(tokenizer)):
            if token < len(SPECIAL) or "\ufffd" in tokenizer.decode([token]):
                model.get_input_embeddings().weight[token] = 0  # seldom said: not text by itself
        model.model.norm.weight.fill_(20)  # sharper choices than a fresh model's nearly equal ones
    return model.to(torch.bfloat16)


def main() -> None:
    place = Path(sys.argv[1])
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(place)
    make_model(tokenizer).save_pretrained(place)


if __name__ == "__main__":
    main()
