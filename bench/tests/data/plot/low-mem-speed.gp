# Drawn by plimsoll plot. To redraw, in this directory: gnuplot low-mem-speed.gp

name = 'low-mem-speed'
data = name . '.tsv'
formats = 'png svg'
title = 'Speed and memory'
subtitle = 'tiny, small   on   Abacus 9000, 2 cores   (2026-11-24)'
rows = real(6.2)
panels = 2
array panel_label[2]
array panel_scale[2]
array panel_most[2]
panel_label[1] = 'prefill (tokens/s)'; panel_scale[1] = real(1); panel_most[1] = real(603)
panel_label[2] = 'peak rss (MiB)'; panel_scale[2] = real(1048576); panel_most[2] = real(160)
bars = 4
array bar_y[4]
array bar_label[4]
array bar_note[4]
bar_y[1] = 0.85; bar_label[1] = 'low_mem off'; bar_note[1] = ''
bar_y[2] = 1.85; bar_label[2] = 'low_mem on'; bar_note[2] = ''
bar_y[3] = 3.95; bar_label[3] = 'low_mem off'; bar_note[3] = 'out_of_memory'
bar_y[4] = 4.95; bar_label[4] = 'low_mem on'; bar_note[4] = ''
label_columns = real(11)
headings = 2
array heading[2]
array heading_y[2]
heading_y[1] = 0.15; heading[1] = 'tiny'
heading_y[2] = 3.25; heading[2] = 'small'

# ---- style.gp
