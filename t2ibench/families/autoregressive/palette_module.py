"""Image-GPT's training and sampling: codes of a palette, one a pixel, and completion of images."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from t2ibench.core.edits import Inpainting
from t2ibench.core.noise import Noise
from t2ibench.core.types import Batch, Images, TextFeatures
from t2ibench.families.autoregressive.losses import next_code_loss
from t2ibench.families.autoregressive.module import AutoregressiveCodes
from t2ibench.families.autoregressive.raster import check_side, completing


class AutoregressivePalette(AutoregressiveCodes):
    """Autoregression over pixels that a palette has made codes of.

    ``likelihood`` is that of the palette's indices, exact, in bits an index, of which an even guess
    has log2 V. What the palette takes from the pixels is not in it, so it compares with that of
    the same palette alone and not with bits a dimension of 8-bit pixels.

    ``inpainting`` completes an image: known pixels are given and not drawn, the others are drawn
    in raster order. A drawn pixel depends on every pixel before it and on no known one after it,
    so only a mask that is the end of the raster order (the lower half) is conditioned on all that
    is known; of any other the known pixels below the mask are kept and were not looked at.

    Source: Chen et al. 2020 (Image-GPT), sections 2.1 and 3; completions of its figure 4.
    Differs: text, with guidance on the logits.
    """

    edits: frozenset[str] = frozenset({"inpainting"})

    def validation_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of a code, in nats, with the captions and without any."""
        codes = self.codes_of(batch)
        text = self.encode_text(batch)
        both = (text, self.null_like(text))
        given, without = (
            next_code_loss(self.network(codes, features), codes, 0.0) for features in both
        )
        return {"loss": given, "loss_without_text": without}

    def sample(
        self,
        text: TextFeatures,
        noise: Noise,
        knobs: Mapping[str, float],
        edit: Inpainting | None = None,
    ) -> Images:
        """Samples pixel by pixel with a cache; an edit's known pixels are given."""
        logits = self.next_logits(text, knobs)
        if edit is not None:
            check_side(edit.image, self.resolution)
            known = self.first_stage.codes(edit.image.to(text.tokens.device))
            # Of a coarser first stage a code is drawn where any pixel of its patch is.
            side = self.resolution // self.first_stage.spatial_factor
            drawn = adaptive_max_pool2d(edit.mask.to(known.device).float(), side) > 0
            logits = completing(logits, known, drawn.flatten(1))
        images = self.drawn(logits, noise, knobs)
        return images if edit is None else edit.paste(images)
