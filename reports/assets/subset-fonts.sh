#!/bin/sh
# Makes the font subsets beside this script from the folder of DejaVu fonts given as $1.
set -eu
cd "$(dirname "$0")"
unicodes="U+0020-007E,U+00A0-00FF,U+0131,U+0152-0153,U+0160-0161,U+0178,U+017D-017E,U+0192,U+0394,\
U+03B1-03C9,U+2009,U+202F,U+2010-2015,U+2018-201E,U+2020-2022,U+2026,U+2030,U+2032-2033,\
U+2039-203A,U+2070,U+2074-2079,U+2080-2089,U+20AC,U+2122,U+2190-2193,U+2212,U+221A,U+221E,\
U+2248,U+2260,U+2264-2265,U+25A0,U+25B2,U+25BC,U+25C6,U+25CF,U+26A0,U+2713,U+2717"
for weight in "" -Bold; do
    python3 -m fontTools.subset "$1/DejaVuSans$weight.ttf" --unicodes="$unicodes" \
        --output-file="DejaVuSans$weight-subset.ttf" --layout-features=kern,tnum \
        --no-hinting --desubroutinize --name-IDs=0,1,2,3,4,5,6,13,14
    python3 -m fontTools.subset "DejaVuSans$weight-subset.ttf" --unicodes='*' --layout-features='*' \
        --no-hinting --flavor=woff2 --name-IDs='*' --output-file="DejaVuSans$weight-subset.woff2"
done
