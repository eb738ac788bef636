# The look of all plots. `plimsoll plot` puts its values in front of this file and a plot's own file behind it, so that
# NAME.gp and NAME.tsv redraw the images with nothing but gnuplot (5.2 or newer).
#
# Colours: Okabe and Ito's palette, which people with any of the common colour-vision deficiencies can tell apart; without
# its yellow, which is too light for lines on white.

array color[7] = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000']
array point[7] = [7, 5, 9, 11, 13, 15, 7]
array open_point[7] = [6, 4, 8, 10, 12, 14, 6]

ink = '#222222'
faint = '#777777'
grid_color = '#E4E4E4'

set encoding utf8
set datafile separator tab

set_terminal(format, width, height) = format eq 'svg' \
    ? sprintf("set terminal svg size %d,%d dynamic rounded noenhanced font 'sans-serif,13' background '#FFFFFF'", width, height) \
    : strstrt(GPVAL_TERMINALS, 'pngcairo') \
    ? sprintf("set terminal pngcairo size %d,%d rounded noenhanced font 'sans,11' background '#FFFFFF'", width, height) \
    : sprintf("set terminal png size %d,%d font 'arial,11' background '#FFFFFF'", width, height)

# gnuplot's SVG takes a family and a size, no weight.
title_font(format) = format eq 'svg' ? 'sans-serif,20' : 'sans:Bold,15'
small(format) = format eq 'svg' ? 'sans-serif,11' : 'sans,9'
head_font(format) = format eq 'svg' ? 'sans-serif,15' : 'sans:Bold,11'

set border 3 lc rgb '#999999' lw 1
set tics nomirror textcolor rgb ink scale 0.6
set xlabel textcolor rgb ink
set ylabel textcolor rgb ink
set key textcolor rgb ink
