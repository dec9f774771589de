"""SimCLR views, the SMILE objective: accelerate launch recipes/simclr_smile.py

mnist5k, 30 epochs on two CPU cores, seeds 0, 1, 2: linear probe 97.6 %, 10 images a class 94.1 %, kNN 96.9 % (means).
"""

from simclr import main

import infomax as im

if __name__ == "__main__":
    main(__doc__, "simclr_smile", objective=im.SMILE(tau=5.0))
