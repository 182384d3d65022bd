"""A model as a prediction sees it."""

from dataclasses import dataclass

from controlplane.placement.models.layers import Attention, Experts, Latent, Layer, Recurrent
from controlplane.placement.models.quantization import Quantization


@dataclass(frozen=True)
class Tower:
    """An encoder beside the language model (vision, audio)."""

    kind: str
    parameters: int
    hidden: int
    width: int
    patches: int  # of the largest input that the engine profiles, before they are merged
    tokens: int  # what those become for the language model
    video: bool = False  # takes videos, which may fill the whole context
    deep: int = 0  # features of inner layers that go with each token


@dataclass(frozen=True)
class Model:
    architecture: str
    hidden: int
    vocabulary: int
    tied: bool
    max_position: int
    dtype: str
    layers: tuple[Layer, ...]
    quantization: Quantization
    encoder: tuple[Layer, ...] = ()
    encoder_positions: int = 0
    rotary: tuple[int, ...] = ()  # columns of each cached table of sines and cosines
    learned_positions: bool = False
    towers: tuple[Tower, ...] = ()
    drafting: tuple[Layer, ...] = ()  # multi-token-prediction layers of its own
    extra: int = 0  # parameters of no layer
    generates: bool = True  # False: an embeddings model, with no head
    kv_dtype: str | None = None  # that the checkpoint asks for

    @property
    def hybrid(self) -> bool:
        """Whether its layers keep caches of more than one kind."""
        kinds = {
            (type(each.mixer), getattr(each.mixer, "window", 0), getattr(each.mixer, "chunk", 0))
            for each in self.layers
            if each.mixer is not None
        }
        return len(kinds) > 1

    @property
    def recurrent(self) -> bool:
        return any(isinstance(each.mixer, Recurrent) for each in self.layers)

    @property
    def latent(self) -> bool:
        return any(isinstance(each.mixer, Latent) for each in self.layers)

    @property
    def sparse(self) -> bool:
        """Whether it has experts."""
        return any(isinstance(each.feed, Experts) for each in self.layers)

    @property
    def plain(self) -> bool:
        """Whether every layer attends to everything before it: its tokens are a true capacity."""
        return all(
            (isinstance(mixer, Latent) and not mixer.sparse)
            or (isinstance(mixer, Attention) and not mixer.window and not mixer.chunk)
            for mixer in (each.mixer for each in self.layers)
        )
