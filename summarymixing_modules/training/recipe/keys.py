"""Of which kind every key of a recipe and every run option is: `KINDS`, one line each.

`training.recipe.values` checks against it before anything is built. A key that is not here passes
as it is, so that a recipe of one's own may have keys of its own.
"""

from __future__ import annotations

from typing import get_args

from summarymixing_modules.data.batching import BatchOrdering
from summarymixing_modules.data.preparation import Verify
from summarymixing_modules.mixers.summary_options import MODES, STATISTICS
from summarymixing_modules.models.encoder_choice import ENCODERS
from summarymixing_modules.models.initialisation import INITIALISATIONS
from summarymixing_modules.ops.convolution import PADDING_MODES
from summarymixing_modules.training.recipe.kinds import (
    BELOW_ONE,
    BLOCK,
    BOOLEAN,
    COUNT,
    DEVICE,
    EVEN,
    FACTOR,
    FILE,
    MIXER,
    NAMES,
    NOT_NEGATIVE,
    ODD,
    OPTIONS,
    PATH,
    POSITIVE,
    POSITIVE_WHOLE,
    SHARE,
    SIZES,
    TEXT,
    Kind,
    choice,
    either,
    list_of,
    number,
    optional,
    whole,
)

PRECISION = choice("fp32", "fp16", "bf16")
SPLITS = list_of(TEXT, "[dev-clean, dev-other]")
NAMED = either(TEXT, NAMES)  # NAME=VALUE, one or more
BLOCKS = list_of(POSITIVE_WHOLE, "[64, 32]", least=1)

_DATA: dict[str, Kind] = {
    "corpus": TEXT,  # its registry says which there are
    "data_folder": PATH,
    "shards": optional(PATH),
    "shard_window": optional(POSITIVE_WHOLE),
    "output_folder": PATH,
    "save_folder": PATH,
    "init_from": optional(PATH),
    "trust_run": BOOLEAN,
    "encoder": PATH,  # pre-trained
    "train_manifest": PATH,
    "valid_manifest": PATH,
    "test_manifests": NAMED,
    "train_where": NAMED,
    "valid_where": NAMED,
    "test_where": NAMED,
    "train_splits": SPLITS,
    "dev_splits": SPLITS,
    "test_splits": SPLITS,
    "train_hours": optional(POSITIVE),
    "valid_hours": POSITIVE,
    "valid_share": BELOW_ONE,
    "skip_prep": BOOLEAN,
    "verify_audio": choice(*get_args(Verify)),
    "max_bad_audio": SHARE,
    "test_max_bad_audio": SHARE,
    "prep_workers": POSITIVE_WHOLE,
    "sample_rate": POSITIVE_WHOLE,
    "sorting": choice(*get_args(BatchOrdering)),
    "avoid_if_longer_than": optional(POSITIVE),
    "avoid_if_shorter_than": optional(NOT_NEGATIVE),
    "longest": optional(POSITIVE),
    "max_pause": POSITIVE,
    "crop_seconds": POSITIVE,
    "clips_folder": PATH,
    "language": TEXT,
    "keep_digits": BOOLEAN,
    "split_apostrophes": BOOLEAN,
    "fold": either(choice("all"), whole(1, 10)),
    "trials_file": optional(PATH),
    "words": optional(NAMES),
    "unknown_share": SHARE,
    "silence_share": SHARE,
    "draw_seed": COUNT,
    "official_test_folder": optional(PATH),
    "tasks": list_of(TEXT, "[scenario, action]", least=1),
    "classes": list_of(POSITIVE_WHOLE, "[18, 46]", least=1),
    "joint": TEXT,
    "lm_text": optional(either(TEXT, NAMES)),
    "max_line_length": POSITIVE_WHOLE,
    "token_type": choice("librispeech_char", "char", "unigram", "bpe"),
    "tokenizer_file": PATH,
    "output_neurons": optional(POSITIVE_WHOLE),  # null: as many as the characters
}

_BATCHES: dict[str, Kind] = {
    "max_batch_length": POSITIVE,
    "max_batch_ex": optional(POSITIVE_WHOLE),
    "num_buckets": POSITIVE_WHOLE,
    "num_workers": COUNT,
    "batch_size": POSITIVE_WHOLE,
    "test_batch_size": POSITIVE_WHOLE,
    "grad_accumulation_factor": POSITIVE_WHOLE,
}

_TRAINING: dict[str, Kind] = {
    "seed": whole(0, 2**32 - 1),  # what NumPy takes
    "training_steps": POSITIVE_WHOLE,
    "optimizer_step_limit": optional(POSITIVE_WHOLE),
    "number_of_epochs": POSITIVE_WHOLE,
    "second_stage_after": optional(POSITIVE_WHOLE),
    "second_lr": POSITIVE,
    "lr": POSITIVE,
    "final_lr": optional(NOT_NEGATIVE),
    "encoder_lr": POSITIVE,
    "weights_lr": POSITIVE,
    "lr_decay": FACTOR,
    "warmup_steps": COUNT,
    "annealing_factor": FACTOR,
    "encoder_annealing_factor": FACTOR,
    "weights_annealing_factor": FACTOR,
    "improvement_threshold": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "max_grad_norm": number(),  # 0 and below: no clipping
    "precision": PRECISION,
    "avg_checkpoints": POSITIVE_WHOLE,
    "curve_interval": POSITIVE_WHOLE,
    "log_interval": optional(POSITIVE_WHOLE),
    "find_unused_parameters": BOOLEAN,
    "activation_checkpointing": BOOLEAN,
    "freeze_encoder": BOOLEAN,
    "from_scratch": BOOLEAN,
    "valid_search_interval": POSITIVE_WHOLE,
    "ctc_weight": SHARE,
    "ctc_epochs": COUNT,
    "ctc_reduction": choice("mean", "batchmean"),
    "label_smoothing": BELOW_ONE,
    "margin": NOT_NEGATIVE,
    "scale": POSITIVE,
}

_PRETRAINING: dict[str, Kind] = {
    "mask_prob": SHARE,
    "mask_length": POSITIVE_WHOLE,
    "shared_mask": BOOLEAN,
    "noise_std": NOT_NEGATIVE,
    "codes": POSITIVE_WHOLE,
    "codebooks": POSITIVE_WHOLE,
    "code_dim": POSITIVE_WHOLE,
    "comparison_dim": POSITIVE_WHOLE,
    "negatives": POSITIVE_WHOLE,
    "logit_temperature": POSITIVE,
    "diversity_weight": NOT_NEGATIVE,
    "quantiser_layernorm": BOOLEAN,
    "loss_mean": choice("utterances", "frames"),
    "loss_reduction": choice("sum", "mean"),
    "temperature_min": POSITIVE,
    "temperature_decay": FACTOR,
    "frontend_grad_scale": NOT_NEGATIVE,
    "matched": BOOLEAN,
    "size": choice("base", "large"),
}

_FEATURES: dict[str, Kind] = {
    "n_fft": POSITIVE_WHOLE,
    "win_length": POSITIVE,
    "n_mels": POSITIVE_WHOLE,
    "norm_type": choice("global", "sentence", "batch"),
    "update_until_epoch": COUNT,
    "wav_augment": optional(BLOCK),
    "fea_augment": optional(BLOCK),
    "noam_annealing": optional(BLOCK),
    "speeds": list_of(POSITIVE_WHOLE, "[95, 100, 105]", least=1),
    "time_drop_count": COUNT,
    "time_drop_low": COUNT,
    "time_drop_high": POSITIVE_WHOLE,
    "freq_drop_count": COUNT,
    "freq_drop_low": COUNT,
    "freq_drop_high": POSITIVE_WHOLE,
    "drop_replace": choice("mean", "zeros"),
    "augment_first": BOOLEAN,
    "warp_window": COUNT,
    "noise_manifest": PATH,
    "noise_prob": SHARE,
    "noise_snr_low": number(),
    "noise_snr_high": number(),
    "rir_manifest": PATH,
    "rir_prob": SHARE,
    "mixing_prob": SHARE,
}

_MODEL: dict[str, Kind] = {
    "encoder_module": choice(*ENCODERS),
    "initialisation": choice(*INITIALISATIONS),
    "frontend_type": choice("mel", "waveform"),
    "cnn_channels": either(BLOCKS, POSITIVE_WHOLE),  # which, the front end says: `consistency`
    "d_model": POSITIVE_WHOLE,
    "nhead": POSITIVE_WHOLE,
    "num_encoder_layers": POSITIVE_WHOLE,
    "num_decoder_layers": POSITIVE_WHOLE,
    "num_layers": POSITIVE_WHOLE,
    "d_ffn": POSITIVE_WHOLE,
    "csgu_linear_units": EVEN,  # one half gates the other
    "merge_width": optional(POSITIVE_WHOLE),
    "kernel_size": ODD,  # as many frames to the left as to the right
    "alpha": POSITIVE,
    "dropout": BELOW_ONE,
    "head_dropout": BELOW_ONE,
    "output_dropout": BELOW_ONE,
    "layerdrop_prob": BELOW_ONE,
    "padding_mode": choice(*PADDING_MODES),
    "absolute_positions": optional(either(BOOLEAN, choice("where_none"))),
    "decoder_attention": MIXER,
    "decoder_mixer_options": OPTIONS,
    "decoder_nhead": optional(POSITIVE_WHOLE),
    "d_embedding": optional(POSITIVE_WHOLE),
    "d_output": POSITIVE_WHOLE,
    "hidden_size": POSITIVE_WHOLE,
    "normalize_before": BOOLEAN,
    "predictor_size": POSITIVE_WHOLE,
    "predictor_dropout": BELOW_ONE,
    "embedding_dropout": BELOW_ONE,
    "one_hot": BOOLEAN,
    "ctc_on_joint": BOOLEAN,
    "joint_size": POSITIVE_WHOLE,
    "head_size": POSITIVE_WHOLE,
    "head_layers": POSITIVE_WHOLE,
    "head_options": OPTIONS,
    "pooling": choice("mean", "attentive"),
    "name": TEXT,
    "task": TEXT,
    "probe": TEXT,  # its task says which there are
}

_MIXER: dict[str, Kind] = {
    "attention_type": MIXER,
    "mixer_options": OPTIONS,
    "matched_to": optional(TEXT),  # a mixer or a form of one
    "mode": choice(*MODES),
    "local_proj_hid_dim": optional(SIZES),
    "local_proj_out_dim": optional(POSITIVE_WHOLE),
    "summary_hid_dim": optional(SIZES),
    "summary_out_dim": optional(POSITIVE_WHOLE),
    "use_layernorm": BOOLEAN,
    "global_dropout": optional(BELOW_ONE),
    "hypernet_size": optional(POSITIVE_WHOLE),
    "summary_statistic": choice(*STATISTICS),
    "summary_window": optional(either(POSITIVE_WHOLE, SIZES)),
    "local_proj": BOOLEAN,
    "summary_proj": BOOLEAN,
    "combiner": BOOLEAN,
    "local_activation": BOOLEAN,
    "summary_activation": BOOLEAN,
    "combiner_activation": BOOLEAN,
}

_STREAMING: dict[str, Kind] = {
    "streaming": BOOLEAN,
    "chunkwise_prob": SHARE,
    "chunk_size_min": POSITIVE_WHOLE,
    "chunk_size_max": POSITIVE_WHOLE,
    "limited_left_context_prob": SHARE,
    "left_context_chunks_min": COUNT,
    "left_context_chunks_max": COUNT,
    "streaming_matrix": BOOLEAN,
    "matrix_chunk_sizes": list_of(POSITIVE_WHOLE, "[32, 16, 8]", least=1),
    "matrix_left_contexts": list_of(optional(COUNT), "[null, 16, 4]", least=1),
}

_DECODING: dict[str, Kind] = {
    "valid_beam_size": POSITIVE_WHOLE,
    "test_beam_size": POSITIVE_WHOLE,
    "error_rate": optional(choice("WER", "CER")),
    "test_beam_options": OPTIONS,
    "max_symbols": POSITIVE_WHOLE,
    "max_expansions": POSITIVE_WHOLE,
    "ctc_weight_decode": SHARE,
    "lm_folder": optional(PATH),
    "lm_weight": NOT_NEGATIVE,
    "temperature": POSITIVE,  # in pre-training of the Gumbel softmax
    "lm_temperature": POSITIVE,
    "scorer_beam_scale": optional(POSITIVE),
    "min_decode_ratio": NOT_NEGATIVE,
    "max_decode_ratio": POSITIVE,
}

_RUN_OPTIONS: dict[str, Kind] = {
    "device": DEVICE,
    "eval_precision": PRECISION,
    "distributed_backend": choice("nccl", "gloo", "mpi"),
    "debug_batches": POSITIVE_WHOLE,
    "debug_epochs": whole(),  # 0 and below: all
    "nonfinite_patience": COUNT,
    "ckpt_interval_minutes": whole(),  # 0 and below: none within an epoch
    "ckpt_interval_steps": whole(),
    "compile_mode": choice("default", "reduce-overhead", "max-autotune"),
    "profile_warmup": POSITIVE_WHOLE,
    "profile_steps": POSITIVE_WHOLE,
    "log_config": FILE,
}

KINDS: dict[str, Kind] = {
    **_DATA,
    **_BATCHES,
    **_TRAINING,
    **_PRETRAINING,
    **_FEATURES,
    **_MODEL,
    **_MIXER,
    **_STREAMING,
    **_DECODING,
    **_RUN_OPTIONS,
}
