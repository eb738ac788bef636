# A metric over commits: a point each, the level as a line, and a mark where the level changed.
#
# Needs: name, formats, title, subtitle, unit, data, points, changes, change_at[], change_text[], change_worse[].

worse_color = '#D55E00'
better_color = '#009E73'

stats data using 2 nooutput
span = STATS_max - STATS_min
pad = span > 0 ? span * 0.15 : abs(STATS_max) * 0.05 + 1e-9
set yrange [STATS_min - pad : STATS_max + 2 * pad]
set xrange [-1 : points]
set grid ytics lt 1 lc rgb grid_color lw 1
set ylabel unit
set xlabel 'commits, oldest first'
every = ceil(points / 11.0)   # of 8 characters each, beside each other
unset key
set tmargin 5
set rmargin 4

set label 1 title at graph 0, 1 offset 0, 2.8 tc rgb ink
set label 2 subtitle at graph 0, 1 offset 0, 1.4 tc rgb faint
do for [i = 1:changes] {
    shade = change_worse[i] ? worse_color : better_color
    set arrow 100 + i from change_at[i] - 0.5, graph 0 to change_at[i] - 0.5, graph 1 nohead lc rgb shade dt 2
    set label 100 + i change_text[i] at change_at[i] - 0.5, graph 0.97 - 0.06 * ((i - 1) % 3) offset 0.6, 0 tc rgb shade
}

do for [format in formats] {
    eval set_terminal(format, 1100, 460)
    set output name . '.' . format
    set label 1 title font title_font(format)
    plot data using 1:2:xtic(int($1) % every == 0 ? strcol(4) : '') with points pt 7 ps 0.8 lc rgb color[1], \
        data using 1:3 with lines lw 2.5 lc rgb color[2]
    set output
}
