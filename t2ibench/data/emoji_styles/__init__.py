"""Real drawn images with real names: about 1,900 emoji in six permissively licensed styles.

``t2ibench data prepare emoji_styles`` fetches seven pinned npm packages, renders the drawings
and writes splits in which no picture is in two.
"""

from t2ibench.data.emoji_styles.prepare import prepare_emoji_styles
from t2ibench.data.emoji_styles.source import EmojiStylesSource

__all__ = ["EmojiStylesSource", "prepare_emoji_styles"]
