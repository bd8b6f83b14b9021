"""Language, image and speech models of transformers: small configurations, random weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchvision_schemas  # noqa: F401  (before transformers imports torchvision)
from calls import Calls, images, noise, tokens
from torch import nn

# isort: split
import transformers

VOCABULARY = 64
WIDTHS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
ENCODER = {**WIDTHS, "vocab_size": VOCABULARY, "max_position_embeddings": 40}
DECODER = {**ENCODER, "num_key_value_heads": 1, "use_cache": False, "pad_token_id": 0}
PATCHES = {**WIDTHS, "image_size": 32, "patch_size": 8}


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


def bert() -> nn.Module:
    config = transformers.BertConfig(**ENCODER)
    return seeded(lambda: transformers.BertModel(config))


def roberta() -> nn.Module:
    config = transformers.RobertaConfig(**ENCODER, pad_token_id=0)
    return seeded(lambda: transformers.RobertaForSequenceClassification(config))


def distilbert() -> nn.Module:
    config = transformers.DistilBertConfig(
        vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=2, hidden_dim=48
    )
    return seeded(lambda: transformers.DistilBertModel(config))


def t5_encoder() -> nn.Module:
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2
    )
    return seeded(lambda: transformers.T5EncoderModel(config))


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2, n_positions=32, use_cache=False
    )
    return seeded(lambda: transformers.GPT2LMHeadModel(config))


def llama() -> nn.Module:
    config = transformers.LlamaConfig(**DECODER)
    return seeded(lambda: transformers.LlamaForCausalLM(config))


def qwen2() -> nn.Module:
    config = transformers.Qwen2Config(**DECODER)
    return seeded(lambda: transformers.Qwen2ForCausalLM(config))


def mamba() -> nn.Module:
    config = transformers.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4, use_cache=False
    )
    return seeded(lambda: transformers.MambaModel(config))


def vit() -> nn.Module:
    config = transformers.ViTConfig(**PATCHES, num_labels=5)
    return seeded(lambda: transformers.ViTForImageClassification(config))


def clip_vision() -> nn.Module:
    config = transformers.CLIPVisionConfig(**PATCHES)
    return seeded(lambda: transformers.CLIPVisionModel(config))


def segformer() -> nn.Module:
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
    )
    return seeded(lambda: transformers.SegformerForSemanticSegmentation(config))


def called_segformer() -> nn.Module:
    """Return a segmenter that has installed its hooks, as it does at its first call."""
    model = segformer()
    with torch.no_grad():
        model(icons()[0]["pixel_values"])
    return model


def wav2vec2() -> nn.Module:
    config = transformers.Wav2Vec2Config(
        **WIDTHS, conv_dim=[16] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4
    )
    return seeded(lambda: transformers.Wav2Vec2Model(config))


def whisper_encoder() -> nn.Module:
    config = transformers.WhisperConfig(
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=48,
        max_source_positions=20,
        num_mel_bins=8,
    )
    return seeded(lambda: transformers.WhisperModel(config).encoder)


def text() -> Calls:
    """int64[batch, time]."""
    return tokens("input_ids", VOCABULARY)


def full_then_padded() -> Calls:
    """Texts with their attention masks: the first fills its rows, the others are padded."""
    calls = text()
    for number, call in enumerate(calls):
        mask = torch.ones_like(call["input_ids"])
        mask[:, mask.shape[1] - number :] = 0
        call["attention_mask"] = mask
    return calls


def padded() -> Calls:
    """Texts with their attention masks, padded from the first on."""
    return full_then_padded()[::-1]


def patches() -> Calls:
    """float32[batch, 3, 32, 32]."""
    return images("pixel_values", 32)


def icons() -> Calls:
    """float32[batch, 3, 64, 64]."""
    return images("pixel_values", 64)


def waves() -> Calls:
    """float32[batch, samples]."""
    return noise("input_values", 1600)


def spectrograms() -> Calls:
    """float32[batch, mel, time]."""
    return noise("input_features", 8, 40)
