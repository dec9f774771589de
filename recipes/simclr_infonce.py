"""SimCLR views, the InfoNCE objective: accelerate launch recipes/simclr_infonce.py"""

from simclr import main

import infomax as im

if __name__ == "__main__":
    main(__doc__, "simclr_infonce", objective=im.InfoNCE())
