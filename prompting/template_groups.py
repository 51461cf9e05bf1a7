"""Hand-written templates, grouped by meaning."""

from collections.abc import Sequence

import torch.nn.functional as F

from prompting.prompts import encode_templates
from prompting.text_encoder import TextEncoder


def auto_groups(
    text_encoder: TextEncoder, templates: Sequence[str], classnames: Sequence[str], n_groups: int
) -> list[list[str]]:
    """Group templates by k-means on their text features, averaged over the classes.

    Deterministic. A group begins with its most central template.

    Args:
        templates: T of them, with one `{}` each.
        classnames: N class names.
        n_groups: how many groups, at most T; templates that are all but equal may leave fewer.
    """
    from sklearn.cluster import KMeans  # slow to import

    features = F.normalize(encode_templates(text_encoder, templates, classnames).float(), dim=-1)
    points = F.normalize(features.mean(dim=1), dim=-1).cpu().double().numpy()
    means = KMeans(n_groups, n_init=10, random_state=0).fit(points)
    distance = ((points - means.cluster_centers_[means.labels_]) ** 2).sum(axis=1)
    groups: dict[int, list[str]] = {label: [] for label in means.labels_}  # in order of first appearance
    for i in distance.argsort(kind="stable"):
        groups[means.labels_[i]].append(templates[i])
    return list(groups.values())
