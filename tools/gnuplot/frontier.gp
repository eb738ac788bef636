# Measured settings in the plane of peak memory and speed, the front that none of them beats on both, and the budget.
#
# Needs: name, formats, title, subtitle, data (index 0: all points, 1: the front; bytes, tokens/s, label), byte_scale,
# byte_unit, budget, most_bytes, best_bytes, best_speed.

set lmargin at screen 0.085
set rmargin at screen 0.96
set tmargin at screen 0.86
set bmargin at screen 0.11
set grid xtics ytics lt 1 lc rgb grid_color lw 1
set xlabel 'peak of requested memory, ' . byte_unit
set ylabel 'tokens/s'
set yrange [0:*]
set offsets graph 0.03, graph 0.1, graph 0.08, 0
# The budget is shown where that leaves room for the points.
if (budget < 1.6 * most_bytes) { set xrange [*:budget * 1.03 / byte_scale] }
set key at graph 0.82, 0.03 bottom right Left reverse samplen 2 spacing 1.3

do for [format in formats] {
    eval set_terminal(format, 1280, 760)
    set output name . '.' . format
    set label 1 title at screen 0.02, 0.962 left font title_font(format) textcolor rgb ink
    set label 2 subtitle at screen 0.02, 0.918 left font small(format) textcolor rgb faint
    set arrow 1 from budget / byte_scale, graph 0 to budget / byte_scale, graph 1 nohead lw 1.5 dt 2 lc rgb color[2]
    set label 3 'budget' at budget / byte_scale, graph 0.97 right offset -0.6, 0 font small(format) textcolor rgb color[2]
    plot data index 0 using ($1 / byte_scale):2 with points pt 7 ps 0.9 lc rgb '#BBBBBB' title 'other settings', \
         data index 1 using ($1 / byte_scale):2 with fsteps lw 2 lc rgb color[1] notitle, \
         data index 1 using ($1 / byte_scale):2 with points pt 7 ps 1.3 lc rgb color[1] title 'the front', \
         data index 1 using ($1 / byte_scale):2:3 with labels left offset 0.7, -0.8 font small(format) \
             textcolor rgb ink notitle, \
         '+' every ::0::0 using (best_bytes / byte_scale):(best_speed) with points pt 6 ps 2.4 lw 2 lc rgb ink \
             title 'fastest that fits'
    set output
}
