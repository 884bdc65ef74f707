"""How a run is carried out: optimiser, logging, checkpoints, threads. Configuration models; needs pydantic only."""

from typing import Literal

from pydantic import Field, model_validator

from modelmill.tasks.stage import StageConfig


class OptimizerConfig(StageConfig):
    """AdamW, or Muon for the hidden matrices and AdamW for the rest. Defaults are those of dots.llm1, Baichuan and
    DeepSeek (decays 0.9 and 0.95, weight decay 0.1, clip 1)."""

    kind: Literal["adamw", "muon"] = "adamw"
    "muon: hidden matrices (each expert its own) by Muon at AdamW's update size (arXiv:2502.16982), so that a learning "
    "rate carries over; embeddings, head, norms and routers stay with AdamW."
    beta1: float = Field(default=0.9, ge=0, lt=1)
    "AdamW: decay of the first moment."
    beta2: float = Field(default=0.95, ge=0, lt=1)
    "AdamW: decay of the second moment."
    eps: float = Field(default=1e-8, gt=0)
    "AdamW: added to the root of the second moment."
    momentum: float = Field(default=0.95, ge=0, lt=1)
    "Muon: decay of the (Nesterov) momentum."
    newton_schulz_steps: int = Field(default=5, gt=0)
    "Muon: iterations that make an update orthogonal."
    state_precision: Literal["fp32", "bf16"] = "fp32"
    "AdamW: bf16 halves the memory of the moments (DeepSeek-V3 §3.3.2); keep beta2 at 0.99 or below then."
    weight_decay: float = Field(default=0.1, ge=0)
    "Decoupled: a step takes weight_decay · learning rate of each matrix (Llama: 0.1 · the rate); not of norms, biases."
    decay_embeddings: bool = True
    "Whether the weight decay also takes from the embedding and the output head."
    clip_norm: float = Field(default=1.0, gt=0)
    "Gradients are scaled down to this global norm."
    mup_base_width: int | None = Field(default=None, gt=0)
    "muP (arXiv:2203.03466): learning rate of hidden matrices times base width / width (its root for Muon, by the "
    "spectral condition of arXiv:2310.17813); none: one rate for all."


class ExpertBalance(StageConfig):
    """How experts are kept evenly loaded. dots.llm1 does not publish its values: these are DeepSeek-V3's
    (arXiv:2412.19437 §4.2)."""

    bias_rate: float = Field(default=0.001, ge=0)
    "Step of a router's selection bias after each batch: down for overloaded experts, up for the others; 0: no bias."
    bias_frozen_share: float = Field(default=0.034, ge=0, le=1)
    "Share of the stage's tokens, at its end, over which the bias stays as it is (the last 0.5 of 14.8 trillion)."
    sequence_loss: float = Field(default=1e-4, ge=0)
    "Weight of the balance loss within each row, summed over layers; 0: none."


class SpikeConfig(StageConfig):
    """When a run goes back to its newest good state and leaves out the batches concerned (PaLM, arXiv:2204.02311 §5.1).

    A loss that is no number counts at once, a high one after `patience` steps in a row. Without a workspace there is no
    state to go back to: then only a loss that is no number ends the run.
    """

    window: int = Field(default=128, gt=0)
    "Steps that the running median is taken over."
    min_steps: int = Field(default=32, gt=1)
    "Steps before a loss can be called high."
    deviations: float = Field(default=8.0, gt=0)
    "A loss is high above median + this many robust deviations (1.4826 · median absolute deviation)."
    min_rise: float = Field(default=0.2, ge=0)
    "A loss is never high below median + this (nats a token)."
    patience: int = Field(default=3, gt=0)
    "High losses in a row that make a spike."
    skip_before: int = Field(default=1, ge=0)
    "Batches before the first high one that are left out too: their update may have been the cause."
    max_rollbacks: int = Field(default=3, ge=0)
    "More spikes than this end the run with an error; 0: the first one does."


class InitialisationConfig(StageConfig):
    """Normal distributions by kind of parameter; norms are one, biases zero."""

    std: float = Field(default=0.02, gt=0)
    "Standard deviation of matrices (dots.llm1 0.006; GPT-2 and most Llama-like models 0.02; MiniCPM 0.1)."
    scale_residual: bool = True
    "Divide that of matrices that write into the residual stream by sqrt(2 · layers) [GPT-2]."
    router_std: float | None = Field(default=None, gt=0)
    "Standard deviation of the routers of a mixture of experts; none: as of the other matrices."
    mup_base_width: int | None = Field(default=None, gt=0)
    "muP: std of hidden matrices times sqrt(base width / width) (arXiv:2203.03466; MiniCPM's base is 320)."
    scale_head: bool = False
    "muP: logits times base width / width; folded into the weights."
    scale_emb: float = Field(default=1.0, gt=0)
    "Embeddings times this (MiniCPM 12); folded into the weights."
    scale_depth: float | None = Field(default=None, gt=0)
    "What a block adds to the residual stream, times this / sqrt(layers) (MiniCPM 1.4); folded into the weights."

    @model_validator(mode="after")
    def _fits(self) -> "InitialisationConfig":
        if self.scale_head and not self.mup_base_width:
            raise ValueError("scale_head divides logits by width / base width; expected a mup_base_width")
        if self.scale_depth and self.scale_residual:
            raise ValueError("scale_depth and scale_residual both scale the blocks' outputs; set scale_residual: false")
        return self


Precision = Literal["fp32", "bf16", "fp8"]
ActivationCheckpointing = Literal["none", "selective", "full"]


class LayerSettings(StageConfig):
    """How layers are computed while they are trained; up to rounding, the results are the same."""

    activation_checkpointing: ActivationCheckpointing = Field(default="none", json_schema_extra={"placement": True})
    "What the backward pass computes again of each layer, with the same bits. full: all but its input, a third more "
    "work and far less memory; selective: all but matrix products and attention, hardly more work."
    compile: bool = Field(default=False, json_schema_extra={"placement": True})
    "Compile the layers with torch.compile, for batches of any shape (half a minute on a CPU; wants g++ and Python's "
    "headers); not with selective activation checkpointing."

    @model_validator(mode="after")
    def _fits(self) -> "LayerSettings":
        if self.compile and self.activation_checkpointing == "selective":
            raise ValueError(
                "compile with activation_checkpointing: selective; torch cannot tell the products of a compiled layer "
                "apart: use full or none, or no compile"
            )
        return self


class TrainSettings(LayerSettings):
    """What does not belong to the plan: numerics, logging, saving."""

    micro_batch_rows: int | None = Field(default=None, gt=0)
    "Rows per forward pass (gradient accumulation); none: the whole batch. Pipelines take the layout's."
    precision: Precision = "fp32"
    "bf16: autocast over fp32 weights (GPUs). fp8: beside that, the matrices of attention, dense feed-forward layers "
    "and shared experts multiply in 8 bits while training (GPUs from Ada and Hopper on; meant for a billion parameters "
    "and more, with `compile`)."
    log_every_steps: int = Field(default=10, gt=0)
    "Steps averaged into one line of the curve."
    validate_every_tokens: int | None = Field(default=None, gt=0)
    "Tokens between validations inside the run; one is always made before and after."
    checkpoint_every_steps: int = Field(default=100, gt=0)
    "Steps between training states that a killed run continues from."
    keep_checkpoints: int = Field(default=2, gt=0)
    "Newest training states kept in the workspace."
    keep_every_tokens: int | None = Field(default=None, gt=0, json_schema_extra={"placement": True})
    "Of every so many tokens one training state is kept beside the newest ones; none: only these."
    snapshot_every_tokens: int | None = Field(default=None, gt=0)
    "Tokens between weight snapshots that are kept to the end (for averaging); none: no snapshots."
    snapshot_from_tokens: int = Field(default=0, ge=0)
    "No snapshot before this many tokens."
    num_pieces: int = Field(default=1, gt=0)
    "CPU only. Parts of a batch that threads compute side by side, one thread each. The result does not "
    "depend on the number of threads then; with one piece, torch's threads share each operation."
    num_threads: int | None = Field(default=None, gt=0, json_schema_extra={"placement": True})
    "Threads of this process; none: all cores. One each when several runs share a machine."
    balance: ExpertBalance = ExpertBalance()
    "Mixture of experts only: how the load of experts is kept even."
    spikes: SpikeConfig = SpikeConfig()
    "What counts as a loss spike, and how often the run goes back behind one."
    hang_seconds: float = Field(default=40.0, gt=0, json_schema_extra={"placement": True})
    "Several processes only: one that stands still for so long (at least five of the longest step) ends the run."


class NeedleConfig(StageConfig):
    """Facts hidden in long text and asked for later: training rows and the gate of the extend stage."""

    sentence: str = "The secret number of {key} is {value}."
    "A fact; the same words up to the value are the question."
    keys: tuple[str, ...] = (
        "amber",
        "basil",
        "cedar",
        "coral",
        "delta",
        "ember",
        "fjord",
        "ginger",
        "harbor",
        "indigo",
        "jasper",
        "kelp",
        "lotus",
        "maple",
        "nickel",
        "opal",
        "pearl",
        "quartz",
        "river",
        "sable",
        "topaz",
        "umber",
        "velvet",
        "willow",
    )
    "What the facts are about."
    num_digits: int = Field(default=3, gt=0)
    "Digits of a value: guessing is right in one of 10^digits cases."
    density: float = Field(default=0.4, gt=0, lt=1)
    "Training rows only: share of a row's tokens taken by facts and questions."
