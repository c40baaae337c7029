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
