# Curves over one parameter: a panel for each metric, one above the other, a line for each series. The wide pale line is
# the prediction; bars hold the middle half of the samples; a ring marks the knee of the first panel's curve.
#
# Needs: name, formats, title, subtitle, notes, note[], data, x_label, x_low, x_high, x_log, panels, panel_label[],
# panel_scale[], panel_log[] (the base; 0: linear), panel_predicted[], series, series_title[], series_color[], series_dash[],
# series_knee[] (NaN: none), legend_columns.

wide = 1280
left = 0.075
right = 1 - (legend_columns * 8 + 78) / wide   # room for the longest title
high = 184 + panels * 308
top = 1 - 100.0 / high
bottom = 84.0 / high
gap = 52.0 / high
height = (top - bottom - gap * (panels - 1)) / panels

pale(c) = '#B0' . c[2:7]

# Series that share a colour differ in dash and in whether their marks are filled.
mark(s) = series_dash[s] > 1 ? open_point[series_color[s]] : point[series_color[s]]

# k: 0 median, 1 lower quartile, 2 upper quartile, 3 predicted
y_of(k, p) = column(2 + 4 * (p - 1) + k) / panel_scale[p]

if (x_log) { set logscale x 2 }
set xrange [x_low:x_high]
set grid xtics ytics lt 1 lc rgb grid_color lw 1
set lmargin at screen left
set rmargin at screen right

do for [format in formats] {
    eval set_terminal(format, wide, high)
    set output name . '.' . format
    set multiplot
    do for [p = 1:panels] {
        unset label
        set tmargin at screen top - (p - 1) * (height + gap)
        set bmargin at screen top - (p - 1) * (height + gap) - height
        if (panel_log[p]) {
            set logscale y panel_log[p]
            set yrange [*:*]
        } else {
            unset logscale y
            set yrange [0:*]
        }
        set offsets 0, 0, graph 0.06, 0
        set ylabel panel_label[p] offset 0.5, 0
        if (p == 1) {
            set label 1 title at screen 0.02, 1 - 30.0 / high left font title_font(format) textcolor rgb ink
            set label 2 subtitle at screen 0.02, 1 - 66.0 / high left font small(format) textcolor rgb faint
            do for [i = 1:notes] {
                set label 2 + i note[i] at screen right + 0.02, bottom + 24.0 / high * (notes - i) left font small(format) \
                    textcolor rgb faint
            }
            set key at screen right + 0.012, top left top Left reverse vertical samplen 2.5 spacing 1.35
        } else {
            unset key
        }
        if (p == panels) { set xlabel x_label } else { unset xlabel }
        plot for [s = 1:series] data index s - 1 using 1:(panel_predicted[p] ? y_of(3, p) : NaN) \
                 with lines lw 9 lc rgb pale(color[series_color[s]]) notitle, \
             for [s = 1:series] data index s - 1 \
                 using 1:(y_of(1, p)):(0):(y_of(2, p) - y_of(1, p)) with vectors nohead lw 1.5 lc rgb color[series_color[s]] notitle, \
             for [s = 1:series] data index s - 1 using 1:(y_of(0, p)) \
                 with linespoints lw 2 dt series_dash[s] pt mark(s) ps (s < 5 ? 1.3 - 0.15 * s : 0.7) lc rgb color[series_color[s]] \
                 title series_title[s], \
             for [s = 1:series] data index s - 1 \
                 using 1:($1 == series_knee[s] ? y_of(0, p) : NaN) \
                 with points pt 6 ps 2.6 lw 2 lc rgb color[series_color[s]] notitle
    }
    unset multiplot
    set output
}
