# Memory by tag: a lying bar for each case, what every tag held when the peak was reached. The black tick is the predicted
# peak.
#
# Needs: name, formats, title, subtitle, data, rows, scale, unit, most, tags, tag_name[], bars, bar_y[], bar_label[],
# bar_note[], label_columns, headings, heading[], heading_y[].

# One colour and one ink a tag, the same in every plot.
tag_color(tag) = tag eq 'weights' ? '#0072B2' : tag eq 'kv_cache' ? '#009E73' : tag eq 'activations' ? '#56B4E9' \
    : tag eq 'dequant' ? '#D55E00' : tag eq 'attention' ? '#E69F00' : tag eq 'logits' ? '#CC79A7' \
    : tag eq 'hessian' ? '#F0E442' : tag eq 'calibration' ? '#000000' : tag eq 'workspace' ? '#666666' \
    : tag eq 'tokenizer' ? '#BBBBBB' : tag eq 'metadata' ? '#999999' : '#444444'
tag_ink(tag) = strstrt('weights kv_cache dequant calibration workspace io', tag) ? '#FFFFFF' : '#222222'

row_px = 44
head_px = 92
foot_px = 62
wide = 1280
if (rows * row_px > 1000) { row_px = 1000 / rows > 24 ? 1000 / rows : 24 }
if (rows * row_px < 250) { row_px = 250 / rows < 60 ? 250 / rows : 60 }
legend_rows = (tags + 1) * 24.0 / row_px   # few bars still need room for the legend
shown_rows = rows > legend_rows ? rows : legend_rows
high = head_px + foot_px + shown_rows * row_px

left = (label_columns * 7.6 + 44) / wide   # room for the longest label
right = 0.84
set lmargin at screen left
set rmargin at screen right
set tmargin at screen 1 - head_px * 1.0 / high
set bmargin at screen foot_px * 1.0 / high
set border 1 lc rgb '#999999' lw 1
set grid xtics lt 1 lc rgb grid_color lw 1
set xrange [0:most / scale * 1.12]
set yrange [shown_rows - 0.35:-0.65]
set xlabel 'peak requested memory (' . unit . ')'
unset ytics
half = 0.36
first = 4
low(k) = (k > first ? (sum [i = first:k - 1] column(i)) : 0) / scale
high_end(k) = (sum [i = first:k] column(i)) / scale
number(v) = v >= 99.95 ? sprintf('%.0f', v) : v >= 9.995 ? sprintf('%.1f', v) : sprintf('%.2f', v)
tag_label(k) = column(k) > most * 0.055 ? number(column(k) / scale) : ''

do for [format in formats] {
    eval set_terminal(format, wide, high)
    set output name . '.' . format
    unset label
    set label 1 title at screen 0.02, 1 - 30.0 / high left font title_font(format) textcolor rgb ink
    set label 2 subtitle at screen 0.02, 1 - 62.0 / high left font small(format) textcolor rgb faint
    do for [b = 1:bars] {
        set label 10 + 2 * b bar_label[b] at graph -0.008, first bar_y[b] right textcolor rgb ink
        set label 11 + 2 * b bar_note[b] at graph 0.004, first bar_y[b] left textcolor rgb '#D55E00'
    }
    do for [h = 1:headings] {
        set label 1000 + h heading[h] at screen 0.02, first heading_y[h] left font head_font(format) textcolor rgb ink
    }
    set key at screen right + 0.012, 1 - head_px * 1.0 / high left top Left reverse vertical samplen 1 spacing 1.35
    plot for [k = first:first + tags - 1] data \
             using (0):1:(low(k)):(high_end(k)):($1 - half):($1 + half) with boxxyerror \
             fs solid 1 border rgb '#FFFFFF' fc rgb tag_color(tag_name[k - first + 1]) title tag_name[k - first + 1], \
         for [k = first:first + tags - 1] data using (0.5 * (low(k) + high_end(k))):1:(tag_label(k)) with labels \
             font small(format) textcolor rgb tag_ink(tag_name[k - first + 1]) notitle, \
         data using ($2 / scale):($1 - half - 0.07):(0):(2 * half + 0.14) with vectors nohead lw 2.5 lc rgb '#000000' notitle, \
         NaN with lines lw 2.5 lc rgb '#000000' title 'predicted peak', \
         data using ($3 / scale):1:($3 > 0 ? '  ' . number($3 / scale) . ' ' . unit : '') with labels left \
             textcolor rgb ink notitle
    set output
}
