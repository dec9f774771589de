#!/usr/bin/env bash
# mne: after crop, the samples of events no longer index the data, and labels fall on other seconds.
#
# Expected: after raw.crop(tmin=10) events found in the cropped recording count from its first sample, so
#   raw.get_data()[:, events[:, 0]] is the data at the events.
# Happens: find_events and events_from_annotations count from the start of the uncropped recording: raw.first_samp,
#   1,000 here, is added. As an index into get_data() each points 10 s late, and those of the last 10 s lie beyond the
#   end. Epochs subtract it and are right. Files have a first_samp above 0 from the start where recording began late,
#   as Neuromag's do.
# Version: mne 1.13.2.
# Why it matters: pairs of signal and event, or of two recordings, are cut by such indices. Shifted ones are
#   independent: no error, and no MI. Use events[:, 0] - raw.first_samp.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(mne==1.13.2 numpy==2.4.6 scipy==1.17.1)
python=${PYTHON:-python3}
if ! "$python" -m pip install -qq --no-compile --target "$work/lib" "${packages[@]}" 2>"$work/pip.log"; then
    cat "$work/pip.log" >&2
    echo "could not install ${packages[*]}" >&2
    exit 2
fi
cd "$work"
PYTHONPATH=$work/lib "$python" - <<'PYTHON'
import sys

import mne
import numpy as np


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


mne.set_log_level("ERROR")
rate, cut = 100.0, 10.0
data = np.zeros((2, 6000))
at = np.arange(1510, 5000, 370)
data[:, at] = 1  # the signal is 1 at each event, and 0 elsewhere
info = mne.create_info(["signal", "trigger"], rate, ["misc", "stim"])
raw = mne.io.RawArray(data, info).crop(tmin=cut)
raw.set_annotations(mne.Annotations((at / rate) - cut, 0, "event"))
signal = raw.get_data("signal")[0]
check(raw.first_samp == 1000 and len(signal) == 5000, f"{len(signal)} samples are left, first_samp is {raw.first_samp}")
for name, events in (
    ("find_events", mne.find_events(raw, "trigger")),
    ("events_from_annotations", mne.events_from_annotations(raw)[0]),
):
    index = events[:, 0]
    direct, shifted = signal[index], signal[index - raw.first_samp]
    missed = len(index) == len(at) and not direct.any()
    check(missed, f"{name}: at its {len(index)} events the signal is {direct.max()}")
    check((shifted == 1).all(), f"first_samp earlier it is {shifted.min()}")
epochs = mne.Epochs(raw, events, tmin=0, tmax=0, picks="misc", baseline=None, preload=True).get_data()
check((epochs == 1).all(), f"in Epochs of the same events it is {epochs.min()}")
PYTHON
