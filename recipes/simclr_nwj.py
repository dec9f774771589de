"""SimCLR views, the CalibratedNWJ objective: accelerate launch recipes/simclr_nwj.py"""

from simclr import main

import infomax as im

if __name__ == "__main__":
    main(__doc__, "simclr_nwj", objective=im.CalibratedNWJ())
