"""The classes of NIH ChestX-ray14: their names as NIH writes them, and their order.

The order is the order of the network's outputs and of every table's finding columns. It is the order
of Wang et al., CVPR 2017 (https://arxiv.org/abs/1705.02315), Table 1 extended to 14, with
`No Finding` last, as in the 15-output head that this project trains.
"""

FINDINGS: tuple[str, ...] = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
NO_FINDING = "No Finding"
CLASSES: tuple[str, ...] = (*FINDINGS, NO_FINDING)

# How files around NIH's write a name that NIH's metadata writes otherwise.
SPELLINGS = {
    "Infiltrate": "Infiltration",  # NIH's box list
    "Pleural Thickening": "Pleural_Thickening",  # Google's radiologist labels, and the paper
    "Pleural_thickening": "Pleural_Thickening",
    "No_Finding": "No Finding",
}
