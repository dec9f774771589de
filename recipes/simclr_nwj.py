"""SimCLR views, the NWJ bound in its trainable form: accelerate launch recipes/simclr_nwj.py

NWJ's plain gradient explodes with scores of cos / temperature; CalibratedNWJ's does not. mnist5k, 12 epochs on two CPU
cores, seed 0, temperatures .05, .1, .2, .3, .5: linear probe 96.4, 95.8, 96.6, 96.3, 96.3 %.
"""

from simclr import main

import infomax as im

if __name__ == "__main__":
    main(__doc__, "simclr_nwj", objective=im.CalibratedNWJ())
