"""Figures that others published, quoted as theirs: shown beside ours only where the data is the same."""

# Ahmed, "What a Standard ResNet Learns on NIH Chest X-rays", January 2025, Table 3: ResNet-50 from
# random weights, official test list. Its 14 rows average 0.7463; the paper prints 0.744.
AHMED_2025_AUROC = {
    "Atelectasis": 0.728,
    "Cardiomegaly": 0.852,
    "Effusion": 0.768,
    "Infiltration": 0.684,
    "Mass": 0.706,
    "Nodule": 0.642,
    "Pneumonia": 0.668,
    "Pneumothorax": 0.816,
    "Consolidation": 0.710,
    "Edema": 0.825,
    "Emphysema": 0.784,
    "Fibrosis": 0.770,
    "Pleural_Thickening": 0.709,
    "Hernia": 0.786,
}

# Tables 1 and 2 of the same paper: the whole set. Its mean age follows from neither edition of NIH's metadata
# (by image: 46.6 +- 16.6 in v2020; by patient, at the first image: see the split's Table 1).
AHMED_2025_TABLE_1 = {
    "images": 112_120,
    "patients": 30_805,
    "age_mean_years": 49.6,
    "age_sd_years": 16.8,
    "male_percent": 56.5,
}
AHMED_2025_TABLE_2 = {
    "Atelectasis": 11_559,
    "Cardiomegaly": 2_776,
    "Effusion": 13_317,
    "Infiltration": 19_894,
    "Mass": 5_782,
    "Nodule": 6_331,
    "Pneumonia": 1_431,
    "Pneumothorax": 5_302,
    "Consolidation": 4_667,
    "Edema": 2_303,
    "Emphysema": 2_516,
    "Fibrosis": 1_686,
    "Pleural_Thickening": 3_385,
    "Hernia": 227,
}

# Wang et al., "ChestX-ray8", CVPR 2017 (https://arxiv.org/abs/1705.02315), section 4.2: share of NIH's 984 boxes
# that are found, by measure and finding, by a network that started from ImageNet weights. IoBB is the
# intersection over the detected box; heat thresholds are 60 and 180 of 255.
_BOXED = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
)  # fmt: skip
WANG_2017_LOCALISATION: dict[str, dict[str, float]] = {
    measure: dict(zip(_BOXED, accuracy, strict=True))
    for measure, accuracy in {
        "iobb_0.1": (0.728, 0.993, 0.712, 0.789, 0.435, 0.165, 0.750, 0.459),
        "iobb_0.25": (0.550, 0.979, 0.542, 0.577, 0.282, 0.051, 0.558, 0.347),
        "iobb_0.5": (0.283, 0.877, 0.333, 0.423, 0.141, 0.013, 0.383, 0.184),
        "iou_0.1": (0.689, 0.938, 0.660, 0.707, 0.400, 0.139, 0.633, 0.378),
        "iou_0.3": (0.244, 0.459, 0.301, 0.276, 0.153, 0.038, 0.167, 0.133),
        "iou_0.5": (0.050, 0.178, 0.111, 0.065, 0.012, 0.013, 0.033, 0.031),
    }.items()
}
