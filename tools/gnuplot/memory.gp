# Memory over time: stacked areas by tag, a panel for each tier. Grey lines are the boundaries between modules; the ring is
# the peak.
#
# Needs: name, formats, title, subtitle, data, layers, layer_title[], spans, span_from[], span_name[] (empty: too narrow for
# its name), panels, panel_index[], panel_title[], panel_peak_at[], panel_peak[], panel_note[], byte_scale, byte_unit,
# time_scale, time_unit, duration.

wide = 1280
tall = 760
left = 0.075
right = 0.86
top = 0.80
bottom = 0.095
gap = 0.06
height = (top - bottom - gap * (panels - 1)) / panels

# Beyond seven tags the palette begins again, paler.
fill(i) = i <= 7 ? color[i] : '#80' . color[i - 7][2:7]

set xrange [0:duration / time_scale]
set lmargin at screen left
set rmargin at screen right
set grid ytics lt 1 lc rgb grid_color lw 1
set style fill solid 0.85 noborder
when(x) = x / time_scale

do for [format in formats] {
    eval set_terminal(format, wide, tall)
    set output name . '.' . format
    set multiplot
    do for [p = 1:panels] {
        unset label
        unset arrow
        set tmargin at screen top - (p - 1) * (height + gap)
        set bmargin at screen top - (p - 1) * (height + gap) - height
        set yrange [0:panel_peak[p] / byte_scale * 1.12]
        set ylabel panel_title[p] . ', ' . byte_unit offset 0.5, 0
        do for [i = 1:spans] {
            set arrow i from when(span_from[i]), graph 0 to when(span_from[i]), graph 1 nohead front lw 0.6 lc rgb '#888888'
            if (p == 1 && strlen(span_name[i]) > 0) {
                set label 10 + i span_name[i] at when(span_from[i]), graph 1.015 rotate by 45 left offset 0.4, 0 \
                    font small(format) textcolor rgb faint
            }
        }
        set label 3 panel_note[p] at when(panel_peak_at[p]), panel_peak[p] / byte_scale \
            offset (panel_peak_at[p] > 0.6 * duration ? -1 : 1), 0.9 front font small(format) textcolor rgb ink
        if (panel_peak_at[p] > 0.6 * duration) {
            set label 3 right
        } else {
            set label 3 left
        }
        if (p == 1) {
            set label 1 title at screen 0.02, 0.965 left font title_font(format) textcolor rgb ink
            set label 2 subtitle at screen 0.02, 0.925 left font small(format) textcolor rgb faint
            set key at screen right + 0.012, top top left Left reverse vertical samplen 1.5 spacing 1.35 invert
        } else {
            unset key
        }
        if (p == panels) { set xlabel 'time, ' . time_unit } else { unset xlabel }
        plot for [i = 1:layers] data index panel_index[p] \
                 using (when($1)):(i == 1 ? 0 : column(i) / byte_scale):(column(i + 1) / byte_scale) \
                 with filledcurves lc rgb fill(i) title layer_title[i], \
             data index panel_index[p] using (when($1)):(column(layers + 1) / byte_scale):(column(layers + 2) / byte_scale) \
                 with filledcurves lc rgb '#BBBBBB' notitle, \
             '+' every ::0::0 using (when(panel_peak_at[p])):(panel_peak[p] / byte_scale) \
                 with points pt 6 ps 1.8 lw 2 lc rgb ink notitle
    }
    unset multiplot
    set output
}
