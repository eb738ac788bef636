# Two ways of doing the same work over its size: every sample, the fitted curves, the interval of their crossing (band) and
# the default (dashed).
#
# Needs: name, formats, title, subtitle, data (index 0 and 1: samples of the two ways, 2: curves), x_label, below_title,
# above_title, time_scale, time_unit, x_low, x_high, low, high, default_value.

set lmargin at screen 0.085
set rmargin at screen 0.96
set tmargin at screen 0.86
set bmargin at screen 0.11
set logscale xy
set xrange [x_low / 1.1:x_high * 1.1]
set grid xtics ytics lt 1 lc rgb grid_color lw 1
set xtics (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
set xlabel x_label
set ylabel 'time, ' . time_unit
set key top left Left reverse samplen 2 spacing 1.3

do for [format in formats] {
    eval set_terminal(format, 1280, 760)
    set output name . '.' . format
    set label 1 title at screen 0.02, 0.962 left font title_font(format) textcolor rgb ink
    set label 2 subtitle at screen 0.02, 0.918 left font small(format) textcolor rgb faint
    set object 1 rectangle from low, graph 0 to high, graph 1 behind fillcolor rgb '#E8E8E8' fillstyle solid noborder
    if (default_value >= x_low && default_value <= x_high) {
        set arrow 1 from default_value, graph 0 to default_value, graph 1 nohead lw 1.5 dt 2 lc rgb ink
        set label 3 'default' at default_value, graph 0.03 left offset 0.6, 0 font small(format) textcolor rgb ink
    }
    plot data index 2 using 1:($2 / time_scale) with lines lw 2 lc rgb color[1] title below_title, \
         data index 2 using 1:($3 / time_scale) with lines lw 2 lc rgb color[2] title above_title, \
         data index 0 using 1:($2 / time_scale) with points pt 6 ps 0.9 lc rgb color[1] notitle, \
         data index 1 using 1:($2 / time_scale) with points pt 4 ps 0.9 lc rgb color[2] notitle
    set output
}
