# Metrics over settings that are no numbers: a lying bar for each case, a panel for each metric, side by side. The thin line
# over a bar's end holds the middle half of the samples.
#
# Needs: name, formats, title, subtitle, data, rows, panels, panel_label[], panel_scale[], panel_most[], bars, bar_y[],
# bar_label[], bar_note[], label_columns, headings, heading[], heading_y[].

row_px = rows * 44 > 1000 ? (1000 / rows > 24 ? 1000 / rows : 24) : 44
head_px = 92
foot_px = 62
wide = 1280
high = head_px + foot_px + rows * row_px

left = (label_columns * 7.6 + 44) / wide   # room for the longest label
right = 0.975
gap = 0.03
width = (right - left - gap * (panels - 1)) / panels
set border 1 lc rgb '#999999' lw 1
set grid xtics lt 1 lc rgb grid_color lw 1
set yrange [rows - 0.35:-0.65]
unset ytics
unset key
half = 0.36
number(v) = v >= 99.95 ? sprintf('%.0f', v) : v >= 9.995 ? sprintf('%.1f', v) : sprintf('%.2f', v)
# A tick at about every third of the way, so that long numbers have room.
round_step(digit) = digit < 1.5 ? 1 : digit < 3 ? 2 : digit < 7 ? 5 : 10
power(x) = 10 ** floor(log10(x))
step(most) = most > 0 ? round_step(most / 3 / power(most / 3)) * power(most / 3) : 1
median(p) = column(3 * p) / panel_scale[p]
lower(p) = column(3 * p + 1) / panel_scale[p]
upper(p) = column(3 * p + 2) / panel_scale[p]

do for [format in formats] {
    eval set_terminal(format, wide, high)
    set output name . '.' . format
    set multiplot
    do for [p = 1:panels] {
        unset label
        set tmargin at screen 1 - head_px * 1.0 / high
        set bmargin at screen foot_px * 1.0 / high
        set lmargin at screen left + (p - 1) * (width + gap)
        set rmargin at screen left + (p - 1) * (width + gap) + width
        set xrange [0:panel_most[p] * (1.1 + 0.06 * panels)]   # and room for the number
        set xtics step(panel_most[p])
        set xlabel panel_label[p]
        if (p == 1) {
            set label 1 title at screen 0.02, 1 - 30.0 / high left font title_font(format) textcolor rgb ink
            set label 2 subtitle at screen 0.02, 1 - 62.0 / high left font small(format) textcolor rgb faint
            do for [b = 1:bars] {
                set label 10 + 2 * b bar_label[b] at graph -0.02, first bar_y[b] right textcolor rgb ink
                set label 11 + 2 * b bar_note[b] at graph 0.01, first bar_y[b] left textcolor rgb '#D55E00'
            }
            do for [h = 1:headings] {
                set label 1000 + h heading[h] at screen 0.02, first heading_y[h] left font head_font(format) textcolor rgb ink
            }
        }
        plot for [c = 1:7] data using (0):($2 == c ? $1 : NaN):(0):(median(p)):($1 - half):($1 + half) with boxxyerror \
                 fs solid 0.85 noborder fc rgb color[c] notitle, \
             data using (lower(p)):1:(upper(p) - lower(p)):(0) with vectors nohead lw 2 lc rgb ink notitle, \
             data using (upper(p)):1:(valid(3 * p) ? '  ' . number(median(p)) : '') with labels left \
                 textcolor rgb ink notitle
    }
    unset multiplot
    set output
}
