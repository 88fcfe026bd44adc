"""The ray caster behind `cmai_core.data.tabletop.render`: solids, table materials, backdrops, camera, shading."""
