"""SimCLR views, the InfoNCE objective: accelerate launch recipes/simclr_infonce.py

mnist5k, 30 epochs on two CPU cores, seed 0: linear probe 97.3 %, 10 images a class 93.6 %, kNN 96.8 %.
"""

from simclr import main

import infomax as im

if __name__ == "__main__":
    main(__doc__, "simclr_infonce", objective=im.InfoNCE())
