"""Builder functions: a bundle's ``network_def`` names one of these and its arguments.

thing_channels : the semantic channels k that are things, in order. norm : "batch", or "group" for 3D's small batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medpanoptic.networks.backbone import EfficientNetLite
from medpanoptic.networks.centre_head import CentreHead
from medpanoptic.networks.fcn import FCN
from medpanoptic.networks.fpn import TwoWayFPN
from medpanoptic.networks.layers import Norm
from medpanoptic.networks.net import PanopticNet, TwoNetworks
from medpanoptic.networks.proposal_head import ProposalHead
from medpanoptic.networks.semantic_head import SemanticHead


def efficientps(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    thing_channels: Sequence[int],
    anchor_sizes: Sequence[float],
    fpn_channels: int = 64,
    head_channels: int = 64,
    norm: Norm = "batch",
    max_detections: int = 300,
    two_way: bool = True,
    plain_semantic_head: bool = False,
    **proposals: int,
) -> PanopticNet:
    """Build EfficientPS: EfficientNet-Lite0, two-way FPN, LSFE/DPC/MC semantic head, RPN + RoI instance head.

    out_channels : K classes. anchor_sizes : anchor edge in voxels, one per level (strides 2, 4, 8, 16).
    two_way, plain_semantic_head : ablations, see TwoWayFPN and SemanticHead.
    proposals : ProposalHead's pre_nms, post_nms, roi_size, mask_roi_size, roi_samples, hidden; 3D wants small ones.
    """
    backbone, neck, semantic = _trunk(
        spatial_dims, in_channels, out_channels, fpn_channels, head_channels, norm, two_way, plain_semantic_head
    )
    head = _proposal_head(
        spatial_dims, fpn_channels, backbone, thing_channels, anchor_sizes, norm, max_detections, proposals
    )
    return PanopticNet(backbone, neck, semantic, head)


def efficientps_centres(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    thing_channels: Sequence[int],
    fpn_channels: int = 64,
    head_channels: int = 64,
    norm: Norm = "batch",
    two_way: bool = True,
    plain_semantic_head: bool = False,
    foreground_weight: float = 0.0,
    **decoding: float,
) -> PanopticNet:
    """Build EfficientPS' trunk and semantic head with the dense CentreHead in place of the proposal head.

    foreground_weight : see PanopticNet.
    decoding : CentreHead's offset_scale, peak_threshold, peak_window, merge_distance, reach, min_size.
    """
    backbone, neck, semantic = _trunk(
        spatial_dims, in_channels, out_channels, fpn_channels, head_channels, norm, two_way, plain_semantic_head
    )
    head = CentreHead(spatial_dims, fpn_channels, tuple(thing_channels), head_channels, norm, **decoding)  # type: ignore[arg-type]
    return PanopticNet(backbone, neck, semantic, head, foreground_weight)


def fcn_mask_rcnn(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    thing_channels: Sequence[int],
    anchor_sizes: Sequence[float],
    fpn_channels: int = 64,
    norm: Norm = "batch",
    max_detections: int = 300,
    **proposals: int,
) -> TwoNetworks:
    """Build the older pair: an FCN and a Mask R-CNN, each with a backbone of its own; plain FPN.

    proposals : as for ``efficientps``.
    """
    semantic_net = FCN(spatial_dims, EfficientNetLite(spatial_dims, in_channels, 5, norm), out_channels)
    backbone = EfficientNetLite(spatial_dims, in_channels, 4, norm)
    neck = TwoWayFPN(spatial_dims, backbone.channels, fpn_channels, norm, two_way=False)
    head = _proposal_head(
        spatial_dims, fpn_channels, backbone, thing_channels, anchor_sizes, norm, max_detections, proposals
    )
    return TwoNetworks(semantic_net, backbone, neck, head)


def _trunk(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    fpn_channels: int,
    head_channels: int,
    norm: Norm,
    two_way: bool,
    plain: bool,
) -> tuple[EfficientNetLite, TwoWayFPN, SemanticHead]:
    backbone = EfficientNetLite(spatial_dims, in_channels, 4, norm)
    neck = TwoWayFPN(spatial_dims, backbone.channels, fpn_channels, norm, two_way)
    return backbone, neck, SemanticHead(spatial_dims, fpn_channels, out_channels, head_channels, norm, plain)


def _proposal_head(
    spatial_dims: int,
    fpn_channels: int,
    backbone: EfficientNetLite,
    thing_channels: Sequence[int],
    anchor_sizes: Sequence[float],
    norm: Norm,
    max_detections: int,
    proposals: Mapping[str, int],
) -> ProposalHead:
    return ProposalHead(
        spatial_dims,
        fpn_channels,
        strides=tuple(backbone.strides),
        thing_channels=tuple(thing_channels),
        anchor_sizes=tuple(anchor_sizes),
        norm=norm,
        max_detections=max_detections,
        **proposals,  # type: ignore[arg-type]
    )
