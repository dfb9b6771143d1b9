"""The web viewer: a page that shows the tracks of a running node, and adds objects by clicks.

It is a ROS 2 client of the node's topics and services, and a small web server:

``discovery``, ``tracked_camera``, ``page_commands``  the ROS side: cameras, pictures with tracks, service calls
``packets``                                           a picture with its tracks as bytes for the browser
``hub``                                               connects the ROS thread with the event loop
``access``, ``session``, ``outbox``, ``web_server``   the web side: access control, one browser's stream, the server
``static/``                                           the page: plain ES modules and CSS
``browser``                                           a headless browser for screenshots and tests
"""
