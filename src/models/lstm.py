"""Text classification with an LSTM whose gates are normalized."""

import math

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from src.models.classifier import Classifier
from src.models.recipe import Recipe
from src.models.vectors import check_vector_norm
from src.norms import NormFamily

RUNNING = ("running_mean", "running_var", "num_batches_tracked")


class StepNorm(nn.Module):
    """A norm that is called at each step of a recurrence, on the texts `(N, D)` that are long enough.

    A batch norm has statistics for each step, and running statistics for each step. Cooijmans et al. separate them
    because the first steps differ from later ones: one average over all steps would mostly come from the last steps of
    the longest texts, and would be wrong for the first steps. All steps share weight and bias. If only one text of the
    batch reaches a step, the step is normalized with the running statistics, since one value has no spread.

    Args:
        num_features: D.
        max_steps: number of steps with statistics of their own; later steps use the statistics of the last one.
    """

    running_mean: Tensor  # (max_steps, D); all three exist only after `separate_steps`
    running_var: Tensor  # (max_steps, D)
    num_batches_tracked: Tensor  # (max_steps,)

    def __init__(self, num_features: int, max_steps: int) -> None:
        super().__init__()
        self.norm: nn.Module = nn.LayerNorm(num_features)
        self.max_steps = max_steps

    @property
    def follows_steps(self) -> bool:
        """Whether each step has running statistics of its own."""
        return "running_mean" in self._buffers

    def separate_steps(self) -> None:
        """Give each step running statistics if the norm has some. Call this after the norm was replaced."""
        if getattr(self.norm, "running_mean", None) is None:
            return
        for name in RUNNING:
            first = self.norm.get_buffer(name)
            self.register_buffer(name, torch.stack([first] * self.max_steps))
            # The norm holds one step's statistics during a call, and not as buffers: DDP broadcasts the buffers of the
            # first process, and the last call of another process may have been at another step.
            delattr(self.norm, name)
            setattr(self.norm, name, first)

    def forward(self, x: Tensor, step: int) -> Tensor:
        if not self.follows_steps:
            y: Tensor = self.norm(x)
            return y
        for name in RUNNING:
            setattr(self.norm, name, self.get_buffer(name)[min(step, self.max_steps - 1)])  # a view
        use_running = self.training and len(x) == 1
        if use_running:
            self.norm.eval()
        y = self.norm(x)
        if use_running:
            self.norm.train()
        return y


class NormalizedLSTM(nn.Module):
    """An LSTM with three norms (Ba, Kiros and Hinton, 2016, arXiv 1607.06450, equations 20 to 22).

        i, f, g, o = norm_input(W_ih x) + norm_hidden(W_hh h) + bias
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(norm_cell(c))

    With a batch norm it is the LSTM of Cooijmans et al., 2016 (arXiv 1603.09025): the norms have statistics for each
    step, and their weights start at 0.1, since at 1 the tanh saturates and gradients vanish (section 4). With Identity
    as the norm it equals a `torch.nn.LSTM` of one layer with the same weights, whose two biases add up to `bias`.

    Args:
        input_size: features of an input.
        hidden_size: features of the state.
        max_steps: see StepNorm.
    """

    def __init__(self, input_size: int, hidden_size: int, max_steps: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.empty(4 * hidden_size))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(hidden_size), 1 / math.sqrt(hidden_size))  # as torch.nn.LSTM
        self.norm_input: nn.Module = nn.LayerNorm(4 * hidden_size)
        self.norm_hidden = StepNorm(4 * hidden_size, max_steps)
        self.norm_cell = StepNorm(hidden_size, max_steps)

    @torch.no_grad()
    def prepare_norms(self) -> None:
        """Set up the statistics and the weights of the norms. Call this after the norms were replaced."""
        for step_norm in (self.norm_hidden, self.norm_cell):
            step_norm.separate_steps()
        if self.norm_hidden.follows_steps:
            for norm in (self.norm_input, self.norm_hidden.norm, self.norm_cell.norm):
                nn.init.constant_(norm.get_parameter("weight"), 0.1)

    def forward(self, inputs: PackedSequence) -> PackedSequence:
        """The state after each input. Packed texts are sorted by length and hold no padding."""
        sizes: list[int] = inputs.batch_sizes.tolist()  # how many texts have a t-th token
        projected = self.norm_input(inputs.data @ self.weight_ih.T) + self.bias  # (tokens, 4H), all steps at once
        h = c = projected.new_zeros(sizes[0], self.hidden_size)
        states = []
        for step, x in enumerate(projected.split(sizes)):
            h, c = h[: len(x)], c[: len(x)]
            i, f, g, o = (x + self.norm_hidden(h @ self.weight_hh.T, step)).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * self.norm_cell(c, step).tanh()
            states.append(h)
        return inputs._replace(data=torch.cat(states))


class TextLSTM(nn.Module):
    """An embedding, an LSTM, the mean of its states over the tokens of a text, and a classifier."""

    def __init__(self, vocab_size: int, hidden_size: int, num_classes: int, dropout: float, max_steps: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, hidden_size)
        self.lstm = NormalizedLSTM(hidden_size, hidden_size, max_steps)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        lengths = attention_mask.sum(1)
        ids = pack_padded_sequence(input_ids, lengths.cpu(), batch_first=True, enforce_sorted=False)
        tokens = ids._replace(data=self.dropout(self.embedding(ids.data)))
        states, _ = pad_packed_sequence(self.lstm(tokens), batch_first=True)  # (B, T, H), 0 at padding
        mean = states.sum(1) / lengths.unsqueeze(1)
        logits: Tensor = self.classifier(self.dropout(mean))
        return logits


class LSTMClassifier(Classifier):
    """Classifies `{"input_ids": (B, T), "attention_mask": (B, T)}`, tokens before padding, with an LSTM.

    The norms of the LSTM's gates and of its cell are a flag. The norms never get padding: at each step they get only
    the texts that are long enough to reach the step.

    Args:
        norm: the norm of gates and cell; null is torch's LayerNorm, and Identity makes a plain LSTM.
        hidden_size: features of a token and of the state.
        dropout: probability of dropping a feature of a token, and of the mean over a text.
        recipe: loss, optimizer and schedule.
        num_classes: number of classes; the CLI takes it from the data.
        vocab_size: number of tokens in the vocabulary; the CLI takes it from the data.
        max_length: the most tokens in a text; each position has statistics of its own. The CLI takes it from the data.

    Raises:
        ValueError: a size or a probability is out of range, or the norm does not fit.
    """

    modalities = ("texts",)
    backbone: TextLSTM

    def __init__(
        self,
        norm: NormFamily | None = None,
        hidden_size: int = 128,
        dropout: float = 0.0,
        recipe: Recipe = Recipe(optimizer="adamw", lr=1e-3, weight_decay=0.01),  # noqa: B008 (frozen)
        num_classes: int = 2,
        vocab_size: int = 8192,
        max_length: int = 128,
    ) -> None:
        if hidden_size < 1:
            raise ValueError(f"hidden_size={hidden_size}: expected 1 or more")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: expected 0 <= dropout < 1")
        if getattr(norm, "masked", None) is False:
            raise ValueError(
                "norm.masked=false: the LSTM takes no step at padding, and has none to count; take TextClassifier, or "
                "leave the option out"
            )
        gates = 4 * hidden_size
        check_vector_norm(norm, norm_input=gates, norm_hidden=gates, norm_cell=hidden_size)
        backbone = TextLSTM(vocab_size, hidden_size, num_classes, dropout, max_length)
        super().__init__(backbone, num_classes, norm, recipe)
        backbone.lstm.prepare_norms()

    def setup(self, stage: str) -> None:
        super().setup(stage)
        synchronizes = getattr(self.trainer.strategy, "_layer_sync", None) is not None
        if self.trainer.world_size > 1 and synchronizes and self.backbone.lstm.norm_hidden.follows_steps:
            raise MisconfigurationException(
                "sync_batchnorm cannot be honoured for an LSTM: its batch norms are called once a step, and each "
                "process takes as many steps as its longest text. Take a norm of single samples, such as "
                "--model.norm=LayerNorm, or no sync_batchnorm."
            )

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        logits: Tensor = self.backbone(**inputs)
        return logits
