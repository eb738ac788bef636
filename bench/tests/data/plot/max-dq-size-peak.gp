# Drawn by plimsoll plot. To redraw, in this directory: gnuplot max-dq-size-peak.gp

name = 'max-dq-size-peak'
data = name . '.tsv'
formats = 'png svg'
title = 'Peak memory and speed'
subtitle = 'tiny   on   Abacus 9000, 2 cores   (2026-11-24)'
x_label = 'max_dq_size (elements), log scale'
x_low = real(964887)
x_high = real(1.82324e+07)
x_log = 1
set xtics ('1 Mi' 1048576, '2 Mi' 2097152, '4 Mi' 4194304, '8 Mi' 8388608, '16 Mi' 16777216)
notes = 5
array note[5]
note[1] = 'ring: the knee, from where on'
note[2] = 'the top panel is level'
note[3] = 'wide pale line: predicted'
note[4] = 'bar: middle half of the samples'
note[5] = 'gap: a case did not finish'
panels = 2
array panel_label[2]
array panel_scale[2]
array panel_log[2]
array panel_predicted[2]
panel_label[1] = 'peak requested memory (MiB)'; panel_scale[1] = real(1048576); panel_log[1] = 0; panel_predicted[1] = 1
panel_label[2] = 'prefill (tokens/s)'; panel_scale[2] = real(1); panel_log[2] = 0; panel_predicted[2] = 0
series = 2
array series_title[2]
array series_color[2]
array series_dash[2]
array series_knee[2]
series_title[1] = 'tiny, chunked, knee 8 Mi'; series_color[1] = 1; series_dash[1] = 1; series_knee[1] = 8388608
series_title[2] = 'tiny, gated, knee 8 Mi'; series_color[2] = 2; series_dash[2] = 1; series_knee[2] = 8388608
legend_columns = real(30)

# ---- style.gp
