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
